"""The demo: one fl-server and eight fl-clients as real processes on this machine, three runs, one table.

    python -m edgehold.attacks.demo [--json FILE] [--keep DIR] [--seed N] [--seeds N]

`clean`: FedAvg, everybody honest. `attacked`: two of the eight clients restart as liars (sign flip) and the server goes on
averaging. `defended`: the same liars against the trimmed mean. Everything travels through the real protocol: identities by
one-time tokens, mutual TLS, signed updates.
"""

import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

import click
import psutil

from edgehold.attacks.testbed import STOP_S, Federation, Process, eventually
from edgehold.core.errors import FlError
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server.desk.show import size, table

TASK = "digits"
ENTRY = "edgehold.client.data.digits:make_task"
CLIENTS = tuple(f"dev-{i}" for i in range(8))
LIARS = CLIENTS[:2]
LIE = ("edgehold.attacks.byzantine.sign_flip:make", {"scale": 5.0})
LINE_EVERY = 5
"""Without a terminal: a line after so many rounds."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. lied: whether the two liars lie in it."""

    name: str
    rule: str
    lied: bool

    def plan(self, rounds: int, seed: int) -> str:
        """The run plan, as an operator would write it."""
        return f"""\
[run]
name = "{self.name}"
rounds = {rounds}
task = "{TASK}"
seed = {seed}

[cohort]
size = {len(CLIENTS)}
quorum = {len(CLIENTS)}
over_select = 1.0
join_deadline_s = 30.0
round_deadline_s = 60.0
max_attempts = 2

[method]
name = "fedavg"
rule = "{self.rule}"
liars = {len(LIARS) if self.rule != "average" else 0}
local_epochs = 5
learning_rate = 0.05
momentum = 0.9
"""


SCENARIOS = (
    Scenario("clean", "average", False),
    Scenario("attacked", "average", True),
    Scenario("defended", "trimmed_mean", True),
)


@dataclass
class Outcome:
    """What one run gave. accuracies: after each round, on the server's held-out test records."""

    scenario: Scenario
    seed: int
    accuracies: list[float]
    seconds: float
    bytes_up: int
    model: Path

    @property
    def accuracy(self) -> float:
        """After the last round."""
        return self.accuracies[-1]

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the JSON file."""
        return {
            "name": self.scenario.name,
            "accuracy": self.accuracy,
            "seconds": round(self.seconds, 3),
            "rounds": len(self.accuracies),
            "bytes_up": self.bytes_up,
            "seed": self.seed,
        }


@dataclass
class Peaks:
    """Largest resident memory seen, in MB. scorer: the server's own child process that holds the test data."""

    server: float = 0.0
    scorer: float = 0.0
    client: float = 0.0

    def look(self, bed: Federation) -> None:
        """Read it off the processes that run now."""
        self.server = max(self.server, _peak_mb(bed.daemon))
        self.client = max([self.client, *(_peak_mb(client) for client in bed.clients.values())])
        self.scorer = max([self.scorer, *(_pid_mb(helper.pid) for helper in _helpers(bed))])


class Failed(Exception):
    """The demo cannot go on; the message says why."""


# ---- what people see


class Screen(Protocol):
    """Where progress goes."""

    def say(self, text: str) -> None:
        """One line."""

    def run(self, scenario: Scenario, rounds: int) -> Callable[[int, dict[str, float]], None]:
        """A run begins. The result is told each round's number and facts."""


class Lines:
    """A line every few rounds: for logs and pipes."""

    def say(self, text: str) -> None:
        """One line."""
        click.echo(text)

    def run(self, scenario: Scenario, rounds: int) -> Callable[[int, dict[str, float]], None]:
        """A run begins."""
        begun, up, first = time.monotonic(), 0.0, 0.0

        def on_round(number: int, facts: dict[str, float]) -> None:
            nonlocal up, first
            up += facts["bytes_up"]
            now = time.monotonic()
            # The first round is no measure: the clients load PyTorch and their data in it.
            first = first or now
            if number % LINE_EVERY and number not in (1, rounds):
                return
            left = f", {(now - first) / (number - 1) * (rounds - number):.1f} s left" if number > 1 else ""
            click.echo(
                f"  {scenario.name:<9} round {number:>3}/{rounds}  {int(facts['clients_admitted'])} clients"
                f"  accuracy {facts['accuracy']:.3f}  up {size(up)}  {now - begun:.1f} s{left}"
            )

        return on_round


class Bars:
    """A live bar per run: for terminals."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress

    def say(self, text: str) -> None:
        """One line above the bars."""
        self._progress.console.print(text, highlight=False)

    def run(self, scenario: Scenario, rounds: int) -> Callable[[int, dict[str, float]], None]:
        """A run begins."""
        fields = {"clients": "-", "accuracy": "-", "up": "0 B"}
        bar, up = self._progress.add_task(f"{scenario.name:<9}", total=rounds, **fields), 0.0

        def on_round(number: int, facts: dict[str, float]) -> None:
            nonlocal up
            up += facts["bytes_up"]
            self._progress.update(
                bar, completed=number, clients=int(facts["clients_admitted"]), accuracy=f"{facts['accuracy']:.3f}", up=size(up)
            )

        return on_round


@contextlib.contextmanager
def screen() -> Iterator[Screen]:
    """Bars on a terminal, lines elsewhere."""
    if not sys.stdout.isatty():
        yield Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    with Progress(
        TextColumn("[bold]{task.description}"), BarColumn(24), MofNCompleteColumn(), TextColumn("rounds"),
        TextColumn("{task.fields[clients]} clients"), TextColumn("accuracy [bold]{task.fields[accuracy]}"),
        TextColumn("up {task.fields[up]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    ) as progress:  # fmt: skip
        yield Bars(progress)


def sparkline(values: Sequence[float], encoding: str) -> str:
    """Values from 0 to 1 as one character each."""
    levels = "▁▂▃▄▅▆▇█" if encoding.lower().startswith("utf") else "_.:-=+*#"
    return "".join(levels[min(int(value * len(levels)), len(levels) - 1)] for value in values)


def comparison(outcomes: Sequence[Outcome], central: float) -> str:
    """The runs side by side; over several seeds the mean and the spread."""
    encoding, rows = sys.stdout.encoding or "ascii", []
    seeds = len({one.seed for one in outcomes})
    for scenario in SCENARIOS:
        mine = [one for one in outcomes if one.scenario == scenario]
        scores = [one.accuracy for one in mine]
        mean = statistics.mean(scores)
        spread = [f"{min(scores):.3f} to {max(scores):.3f}"] if seeds > 1 else []
        rows.append(
            [
                scenario.name, f"fedavg/{scenario.rule}", f"{len(LIARS) if scenario.lied else 0} of {len(CLIENTS)}",
                f"{mean:.3f}", *spread, f"{mean - central:+.3f}", str(len(mine[0].accuracies)),
                f"{statistics.mean(one.seconds for one in mine):.1f}",
                size(statistics.mean(one.bytes_up for one in mine)), sparkline(mine[0].accuracies, encoding),
            ]
        )  # fmt: skip
    titles = ["RUN", "RULE", "LIARS", "ACCURACY", *(["LOWEST TO HIGHEST"] if seeds > 1 else [])]
    return table([*titles, "TO CENTRAL", "ROUNDS", "SECONDS", "UP", "ACCURACY BY ROUND"], rows)


def plot(outcomes: Sequence[Outcome], central: float, path: Path) -> None:
    """Accuracy after each round as a picture; a line per run and seed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    colours = {"clean": "#2b6cb0", "attacked": "#c53030", "defended": "#2f855a"}
    axes.axhline(central, color="#718096", linestyle="--", linewidth=1, label=f"trained in one place ({central:.3f})")
    for scenario in SCENARIOS:
        mine = [one for one in outcomes if one.scenario == scenario]
        mean = statistics.mean(one.accuracy for one in mine)
        liars = f"{len(LIARS)} liars" if scenario.lied else "no liars"
        for number, one in enumerate(mine):
            axes.plot(
                range(1, len(one.accuracies) + 1), one.accuracies, color=colours[scenario.name], linewidth=1.8, alpha=0.9,
                label=None if number else f"{scenario.name}: {scenario.rule.replace('_', ' ')}, {liars} ({mean:.3f})",
            )  # fmt: skip
    axes.set(
        xlabel="round",
        ylabel="accuracy on the server's test records",
        ylim=(0, 1.02),
        xlim=(1, max(2, len(outcomes[0].accuracies))),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="center right", frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


# ---- the runs


def federate(folder: Path, models: Path, rounds: int, seed: int, alpha: float, show: Screen, peaks: Peaks) -> list[Outcome]:
    """The three runs of one seed. folder: of all homes and logs; models: where the final models go."""
    options = {"devices": len(CLIENTS), "alpha": alpha, "seed": seed}
    bed = Federation(folder, tasks={TASK: (ENTRY, {"device_index": -1, **options})})
    strangers, helpers = set(psutil.Process().children(recursive=True)), set[psutil.Process]()
    try:
        bed.start_server()
        helpers = _helpers(bed)
        show.say(f"fl-server is up; enrolling {len(CLIENTS)} clients with one-time tokens")
        for index, client in enumerate(CLIENTS):
            bed.add_client(client, {TASK: (ENTRY, {"device_index": index, **options})})
            bed.start_client(client)
        bed.wait_connected(len(CLIENTS))
        show.say(f"{len(CLIENTS)} clients are connected over mutual TLS")
        outcomes, lying = [], False
        for scenario in SCENARIOS:
            if scenario.lied and not lying:
                peaks.look(bed)
                _turn(bed, options)
                lying = True
                show.say(f"{' and '.join(LIARS)} have restarted as liars, under the identities they had")
            outcomes.append(_play(bed, scenario, rounds, seed, models, show))
        peaks.look(bed)
        return outcomes
    except (Failed, FlError, OSError, RuntimeError, TimeoutError) as error:
        gone = [process.log.name for process in (bed.daemon, *bed.clients.values()) if not process.alive]
        raise Failed(f"{error}" + (f" (ended too soon: {', '.join(gone)})" if gone else "")) from error
    finally:
        _stop(bed, helpers, strangers)


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


def _turn(bed: Federation, options: dict[str, Any]) -> None:
    """Stop the liars-to-be and start them again with an [adversary] table; keys and certificates stay."""
    honest = len(CLIENTS) - len(LIARS)
    bed.stop(LIARS)
    eventually(lambda: bed.connected() == honest, what=f"{honest} connected clients")
    for client in LIARS:
        bed.configure_client(client, {TASK: (ENTRY, {"device_index": CLIENTS.index(client), **options})}, LIE)
        bed.start_client(client)
    bed.wait_connected(len(CLIENTS))


def _stop(bed: Federation, helpers: set[psutil.Process], strangers: set[psutil.Process]) -> None:
    """End every process: all are asked at once, and none outlives its deadline.

    helpers: children of the server, which may be gone by now; strangers: children of this process that are not of the demo.
    """
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C must not leave processes behind
    # Not only those the bed knows of: an interruption in the middle of a start leaves a child nobody has noted yet.
    helpers = {*helpers, *_helpers(bed)}
    ours = (set(psutil.Process().children(recursive=True)) | helpers) - strangers
    for one in ours - helpers:  # these end with the server
        with contextlib.suppress(psutil.Error):
            one.terminate()
    end = time.monotonic() + STOP_S
    for process in (*bed.clients.values(), bed.daemon):
        if process.child:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
    for one in psutil.wait_procs(ours, 1.0)[1]:
        with contextlib.suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(ours, 5.0)
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, _interrupt)


def _peak_mb(process: Process) -> float:
    return _pid_mb(process.child.pid) if process.alive and process.child else 0.0


def _helpers(bed: Federation) -> set[psutil.Process]:
    """Processes that the server started: the one that scores models."""
    child = bed.daemon.child
    return set(psutil.Process(child.pid).children(recursive=True)) if child and bed.daemon.alive else set()


def _pid_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    # No /proc: what it holds now, which for these processes is close to the peak.
    with contextlib.suppress(psutil.Error):
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    return 0.0


# ---- the command


@dataclass
class Folders:
    """results: models, plan texts, logs, picture; work: homes of server and clients while they run."""

    results: Path
    work: Path = field(init=False)

    def __post_init__(self) -> None:
        self.work = self.results / "federation"
        self.results.mkdir(exist_ok=True)
        # Left by an earlier demo: its keys and journals are of no use to this one.
        if (self.work / "demo").exists():
            shutil.rmtree(self.work)
        elif self.work.exists():
            raise Failed(f"{self.work} is there already and not of this demo; choose another folder with --keep")
        self.work.mkdir(mode=0o700)
        (self.work / "demo").touch()

    def of_seed(self, seed: int, many: bool) -> tuple[Path, Path]:
        """Homes and results of one seed."""
        results = self.results / f"seed-{seed}" if many else self.results
        results.mkdir(exist_ok=True)
        return self.work / f"seed-{seed}", results

    def keep_logs(self, homes: Path, results: Path) -> None:
        """Copy what the processes said."""
        logs = results / "logs"
        logs.mkdir(exist_ok=True)
        for log in homes.glob("*.log"):
            shutil.copy(log, logs / log.name)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _central(seeds: Sequence[int]) -> float:
    from edgehold.client.data.digits import central_accuracy

    return statistics.mean(central_accuracy(seed=seed) for seed in seeds)


def demonstrate(
    folders: Folders, keep: bool, rounds: int, seeds: Sequence[int], alpha: float, show: Screen, peaks: Peaks
) -> tuple[list[Outcome], float]:
    """All runs of all seeds, and the accuracy of the same model trained in one place."""
    outcomes: list[Outcome] = []
    for seed in seeds:
        if len(seeds) > 1:
            show.say(f"seed {seed}")
        homes, results = folders.of_seed(seed, len(seeds) > 1)
        outcomes += federate(homes, results, rounds, seed, alpha, show, peaks)
        folders.keep_logs(homes, results)
    show.say("training the same model in one place, for comparison")
    central = _central(seeds)
    if not keep:
        shutil.rmtree(folders.work)
    return outcomes, central


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the results here.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Folder for everything, homes included.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of split, model and training.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="So many seeds, from --seed on.")
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(1), help="Rounds of each run.")
@click.option(
    "--alpha",
    default=3.0,
    show_default=True,
    type=click.FloatRange(0.0, min_open=True),
    help="Of the split; 0.5 is very uneven.",
)
def main(json_file: Path | None, keep: Path | None, seed: int, seeds: int, rounds: int, alpha: float) -> None:
    """Train on handwritten digits with eight clients: honest, attacked, defended. Real processes on this machine."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    begun, peaks, results = time.monotonic(), Peaks(), keep or Path("demo-output")
    json_file = json_file and json_file.absolute()
    try:
        results.mkdir(parents=True, exist_ok=True)
        # Work inside the folder: socket paths have to be short, and so they are however deep it lies.
        with contextlib.chdir(results):
            folders = Folders(Path())
            with screen() as show:
                outcomes, central = demonstrate(
                    folders, keep is not None, rounds, range(seed, seed + seeds), alpha, show, peaks
                )
            plot(outcomes, central, Path("accuracy.png"))
            if json_file is not None:
                _write(json_file, outcomes, central, peaks)
    except KeyboardInterrupt:
        click.echo(f"\ndemo: interrupted; every process is stopped, logs are in {results / 'federation'}", err=True)
        sys.exit(130)
    except (Failed, FlError, OSError) as error:
        said = " ".join(str(error).split())  # one line, whatever was quoted in it
        click.echo(f"demo: {said}; logs are in {results / 'federation'}", err=True)
        sys.exit(1)
    click.echo("")
    click.echo(comparison(outcomes, central))
    click.echo(f"\nAccuracy of the same model trained in one place on all records: {central:.3f}")
    click.echo(
        f"Peak memory: fl-server {peaks.server:.0f} MB (and its scoring process {peaks.scorer:.0f} MB), "
        f"largest fl-client {peaks.client:.0f} MB"
    )
    click.echo(f"Models: {', '.join(str(results / one.model) for one in outcomes[-len(SCENARIOS) :])}")
    click.echo(f"Picture: {results / 'accuracy.png'}; logs: {results / outcomes[-1].model.parent / 'logs'}")
    click.echo(f"Done in {time.monotonic() - begun:.0f} s.")


def _write(path: Path, outcomes: Sequence[Outcome], central: float, peaks: Peaks) -> None:
    path.write_text(
        json.dumps(
            {
                "runs": [one.as_dict() for one in outcomes],
                "central_accuracy": central,
                "peak_rss_mb": {"server": round(peaks.server, 1), "client": round(peaks.client, 1)},
            },
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
