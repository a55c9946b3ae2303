"""How soon the tasks of a round reach the clients that were drawn when thousands hold a connection to one server.

Real processes over mutual TLS on loopback: one server, and client processes that hold hundreds of clients each, every one with
a connection, identity and keep of its own. Both sides write down what happens with the time of the same clock: the server when
an attempt at a round begins (before clients are drawn), the clients when a task is in their keep, and how long that was after
its arrival: on two cores that is the time for which hundreds of clients wait for each other, which devices do not.
"""

import re
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import mean

import numpy as np
import psutil

from benchmarks import fleet
from benchmarks.frame import Options, Row, load_average
from edgehold.attacks.testbed import Federation

NAME = "connections"
SUMMARY = "2,000 connected clients: task received after round start, seconds per round, server memory"

MIB = 1 << 20
PERCENTILES = (50, 90, 99)
_LINE = re.compile(r"^(\S+)Z info\s+(round_begun|task_received) (.*?)\brun=(\S+) round=(\d+)")
_WAITED = re.compile(r"\bwaited_s=([\d.]+)")


@dataclass(frozen=True, slots=True)
class Case:
    """values: float32 weights of the model; cohort: clients per round; received, longest: seconds; memory: MiB."""

    clients: int
    cohort: int
    values: int
    processes: int
    rounds: int
    received: float
    longest: float
    memory: float


CASE = Case(2000, 200, 10_000, 8, 12, received=0.5, longest=4.0, memory=800e6 / MIB)
TINY = Case(6, 3, 1000, 2, 3, received=60.0, longest=60.0, memory=8000.0)


def rows(options: Options) -> Iterator[Row]:
    """One federation, several numbers."""
    case = TINY if options.quick else CASE
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder:
        yield from _case(Path(folder), case, options)


def _case(folder: Path, case: Case, options: Options) -> Iterator[Row]:
    load, rounds = load_average(), case.rounds
    clients = [f"device-{number:04}" for number in range(case.clients)]
    what = f"{case.cohort} of {case.clients:,} clients x {4 * case.values // 1000} KB"
    with fleet.many_files(fleet.FILES_PER_CLIENT * case.clients), fleet.federation(folder, case.values) as bed:
        bed.start_server()
        fleet.enrol(bed, clients, case.values)
        options.say("enrolled")
        load = load_average()
        fleet.start(bed, clients, case.processes)
        bed.wait_connected(case.clients, 300.0)
        options.say("connected")
        server = psutil.Process(fleet.pid(bed.daemon))
        idle, before = server.memory_info().rss / MIB, server.cpu_times()
        played = fleet.play(bed, "bench", rounds, case.cohort)
        after = server.cpu_times()
        peak = fleet.memory(server.pid)["peak"] / MIB
        found = waited(bed)
        for process in bed.clients.values():
            process.stop(signal.SIGKILL)  # nothing is measured any more, and goodbyes of thousands take minutes
    waits = 1000 * np.array([pair for number, pairs in found.items() if number > 1 for pair in pairs])
    note = f"{len(waits):,} tasks of {rounds - 1} rounds, {case.processes} client processes; from the start of the attempt to"
    for column, (name, end) in enumerate((("received", "its arrival"), ("in the keep", "the client's keep, synced"))):
        for share in PERCENTILES:
            target = 1000 * case.received if share == 99 and column == 0 else None
            value = float(np.percentile(waits[:, column], share))
            yield Row(f"task {name}, p{share}, {what}", value, "ms", target, load=load, note=f"{note} {end}")
    note = f"the slowest of {rounds - 1} rounds, commit to commit as a watcher sees them; mean {mean(played.wall):.3g} s"
    yield Row(f"round, slowest, {what}", max(played.wall), "s", case.longest, load=load, note=note)
    note = f"peak after {rounds} rounds; {idle:.0f} MiB with everybody connected, before the first; target 800 MB"
    yield Row(f"server memory, {what}", peak, "MiB", case.memory, load=load, note=note)
    user, system = (after.user - before.user) / rounds, (after.system - before.system) / rounds
    note = f"user and system of the server's process, mean of {rounds} rounds; system {system:.2f} s"
    yield Row(f"server processor per round, {what}", user + system, "s", None, load=load, note=note)


def waited(bed: Federation) -> Mapping[int, list[tuple[float, float]]]:
    """From the logs: seconds from the start of each round to each of its tasks arriving and being kept, by round."""
    begun = {number: at for what, number, at, _ in _told(bed.daemon.log) if what == "round_begun"}
    found: dict[int, list[tuple[float, float]]] = {number: [] for number in begun}
    for process in bed.clients.values():
        for what, number, at, later in _told(process.log):
            if what == "task_received":
                kept = at - begun[number]
                found[number].append((kept - later, kept))
    return found


def _told(log: Path) -> Iterator[tuple[str, int, float, float]]:
    """Event, round, seconds since 1970, and how many of them it was after what it tells of."""
    for line in log.read_text(encoding="utf-8").splitlines():
        if match := _LINE.match(line):
            later = _WAITED.search(match[3])
            yield (
                match[2],
                int(match[5]),
                datetime.fromisoformat(match[1] + "+00:00").timestamp(),
                float(later[1]) if later else 0.0,
            )
