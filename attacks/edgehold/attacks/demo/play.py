"""Playing the three runs on a federation of real processes."""

from pathlib import Path

from edgehold.attacks.demo.memory import Peaks
from edgehold.attacks.demo.outcome import Failed, Outcome
from edgehold.attacks.demo.plan import CLIENTS, LIARS, LIE, SCENARIOS, Scenario, Settings
from edgehold.attacks.demo.processes import Processes
from edgehold.attacks.demo.progress import Screen
from edgehold.attacks.testbed import Federation, eventually
from edgehold.core.errors import FlError
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import admin_pb2 as pb


def federate(homes: Path, models: Path, settings: Settings, seed: int, show: Screen, peaks: Peaks) -> list[Outcome]:
    """The three runs of one seed. homes: of server and clients, and their logs; models: where the final models go."""
    bed = Federation(homes, tasks=settings.tasks(seed, -1))
    processes = Processes(bed)
    try:
        bed.start_server()
        processes.note_helpers()
        show.say(f"fl-server is up; enrolling {len(CLIENTS)} clients with one-time tokens")
        for index, client in enumerate(CLIENTS):
            bed.add_client(client, settings.tasks(seed, index))
            bed.start_client(client)
        bed.wait_connected(len(CLIENTS))
        show.say(f"{len(CLIENTS)} clients are connected over mutual TLS")
        outcomes, lying = [], False
        for scenario in SCENARIOS:
            if scenario.lied and not lying:
                peaks.look(bed)
                _turn(bed, settings, seed)
                lying = True
                show.say(f"{' and '.join(LIARS)} have restarted as liars, under the identities they had")
            outcomes.append(_play(bed, scenario, settings.rounds, seed, models, show))
        peaks.look(bed)
        return outcomes
    except (Failed, FlError, OSError, RuntimeError, TimeoutError) as error:
        gone = [process.log.name for process in (bed.daemon, *bed.clients.values()) if not process.alive]
        raise Failed(f"{error}" + (f" (ended too soon: {', '.join(gone)})" if gone else "")) from error
    finally:
        processes.stop()


def _play(bed: Federation, scenario: Scenario, rounds: int, seed: int, models: Path, show: Screen) -> Outcome:
    scores: dict[int, float] = {}
    up = 0
    on_round = show.run(scenario, rounds)

    def on_event(event: pb.WatchRunResponse) -> None:
        nonlocal up
        facts = event.round.facts
        # A round is told twice, first without its score: count it once.
        if event.round.state == "committed" and "accuracy" in facts and event.round.round not in scores:
            scores[event.round.round] = facts["accuracy"]
            up += int(facts["bytes_up"])
            on_round(event.round.round, dict(facts))

    info = bed.run(scenario.plan(rounds, seed), on_event)
    if info.state != "finished" or len(scores) != rounds:
        raise Failed(f"run {scenario.name}: {info.state} after {info.rounds_done} of {rounds} rounds. {info.error}".strip())
    path = models / f"{scenario.name}.safetensors"

    async def fetch(stub: Stub) -> bytes:
        parts = stub.stream("GetModel", pb.GetModelRequest(run=scenario.name), pb.GetModelResponse)
        return b"".join([part.data async for part in parts])

    path.write_bytes(bed.ask(fetch))
    return Outcome(scenario, seed, [scores[number] for number in sorted(scores)], info.seconds, up, path)


def _turn(bed: Federation, settings: Settings, seed: int) -> None:
    """Stop the liars-to-be and start them again with an [adversary] table; keys and certificates stay."""
    honest = len(CLIENTS) - len(LIARS)
    bed.stop(LIARS)
    eventually(lambda: bed.connected() == honest, what=f"{honest} connected clients")
    for client in LIARS:
        bed.configure_client(client, settings.tasks(seed, CLIENTS.index(client)), LIE)
        bed.start_client(client)
    bed.wait_connected(len(CLIENTS))
