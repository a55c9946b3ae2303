"""Masked rounds over the network: ten devices and a server, processes of their own over mutual TLS; Flower beside them."""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from benchmarks import fleet, peers
from benchmarks.frame import Options, Row, load_average
from edgehold.attacks.testbed import Federation
from edgehold.core.errors import ConfigError
from edgehold.proto.v1 import admin_pb2 as pb

CLIENTS, VALUES = 10, 1_100_000
PEER_S = 480.0
"""Seconds that Flower may take for one run, its start included."""
MASKS = "[privacy]\nmasked = true\n[masks]\nclip = 4.0\n"
SHARE = 1.01
"""Bytes a device may send, over its payload."""


def rows(options: Options) -> Iterator[Row]:
    """Masked and plain rounds in one bed, then the peer."""
    values, rounds = (1000, 3) if options.quick else (VALUES, options.rounds)
    load = load_average()
    plain, masked = ours(options, values, rounds)
    aims: tuple[float | None, ...] = (None,) * 4 if options.quick else (1.5, 2.5, 4.0, SHARE)
    size = f"{CLIENTS} devices x {values:,} entries, 32 bit"
    note = f"{size}; median of {rounds - 1} rounds; slowest {masked['slowest']:.3g} s"
    yield Row("masked round", masked["seconds"], "s", aims[0], None, load, note)
    ratio = masked["seconds"] / plain["seconds"]
    yield Row("masked over plain round", ratio, "times", aims[1], None, load, f"plain {plain['seconds']:.3g} s")
    note = f"all processes; plain {plain['processor']:.3g} s"
    yield Row("masked round, processor", masked["processor"], "s", aims[2], None, load, note)
    yield Row("sent by a device over its payload", masked["sent"], "times", aims[3], None, load, "every step of a masked round")
    if options.peer:
        yield from _peer(options, values, 2, masked)


def ours(options: Options, values: int, rounds: int) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Plain and masked rounds of a federation of our own: seconds, slowest, processor, sent."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder:
        bed = fleet.federation(Path(folder), values)
        with bed:
            bed.start_server()
            names = [f"device-{number}" for number in range(CLIENTS)]
            fleet.enrol(bed, names, values)
            fleet.start(bed, names, CLIENTS)
            bed.wait_connected(CLIENTS)
            return _play(bed, "plain", rounds, ""), _play(bed, "masked", rounds, MASKS)


def _play(bed: Federation, run: str, rounds: int, masks: str) -> Mapping[str, float]:
    plan = (
        f'[run]\nname = "{run}"\nrounds = {rounds}\ntask = "synthetic"\nseed = 1\n'
        f"[cohort]\nsize = {CLIENTS}\nquorum = 8\nover_select = 1.0\nround_deadline_s = 600.0\n"
        f'[method]\nname = "fedavg"\n[evaluation]\nevery = 0\n[weights]\nby = "equal"\n{masks}'
    )
    times: dict[int, tuple[float, float, float]] = {}

    def heard(event: pb.WatchRunResponse) -> None:
        facts = event.round.facts
        if event.HasField("round") and event.round.state == "committed" and event.round.round not in times:
            # Adverts and shares come once per device, and as much goes back: half of what moved was sent by devices at most.
            beside = facts["mask_keys_bytes"] + facts["mask_shares_bytes"] + facts["mask_reveals_bytes"] if masks else 0.0
            times[event.round.round] = time.monotonic(), processor(bed), (facts["bytes_up"] + beside) / facts["bytes_up"]

    info = bed.run(plan, heard)
    if info.state != "finished" or len(times) != rounds or info.latest.facts["clients_admitted"] != CLIENTS:
        raise ConfigError(f"run {run} is {info.state} after {len(times)} of {rounds} rounds: {info.error}")
    walls = [times[number][0] - times[number - 1][0] for number in range(2, rounds + 1)]
    used = [times[number][1] - times[number - 1][1] for number in range(2, rounds + 1)]
    return {
        "seconds": median(walls), "slowest": max(walls), "processor": median(used),
        "sent": max(times[number][2] for number in range(2, rounds + 1)),
    }  # fmt: skip


def processor(bed: Federation) -> float:
    """Processor seconds of all processes of a bed so far, their children included."""
    tick, total, waiting = os.sysconf("SC_CLK_TCK"), 0.0, [fleet.pid(one) for one in (bed.daemon, *bed.clients.values())]
    while waiting:
        pid = waiting.pop()
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        total += sum(int(field) for field in fields[11:15]) / tick
        for task in Path(f"/proc/{pid}/task").iterdir():
            waiting += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    return total


def theirs(options: Options, clients: int, values: int, rounds: int, how: str) -> dict[str, float]:
    """Flower's rounds, "plain" or "masked"; `ConfigError` when it cannot be installed or fails."""
    options.say(f"Flower, {how}, {clients} x {values:,} values ...")
    with tempfile.TemporaryDirectory(prefix="peer-", dir=options.folder) as folder:
        return peers.measured(peers.FLOWER, "flower_peer.py", (clients, values, rounds, how, folder), options, PEER_S)


def _peer(options: Options, values: int, rounds: int, mine: Mapping[str, float]) -> Iterator[Row]:
    found = {how: theirs(options, CLIENTS, values, rounds, how) for how in ("plain", "masked")}
    load, other = load_average(), found["masked"]
    for what, name in (("seconds", "share of Flower's SecAgg+ round"), ("processor", "share of its processor time")):
        note = f"{peers.FLOWER.title}: {other[what]:.3g} s masked, {found['plain'][what]:.3g} s plain; ours {mine[what]:.3g} s"
        yield Row(name, 100 * mine[what] / other[what], "%", None, None, load, note)
