"""How soon the tasks of a round reach the clients that were drawn when thousands hold a connection to one server.

Real processes over mutual TLS on loopback: one server, and client processes that hold hundreds of clients each, every one with
a connection, identity and keep of its own. Both sides write down what happens with the time of the same clock: the server when
an attempt at a round begins (before clients are drawn), the clients when a task is received, checked and in their keep.
"""

import re
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
SUMMARY = "2,000 connected clients: task received after round start, seconds per round, server memory and processor"

MIB = 1 << 20
PERCENTILES = (50, 90, 99)
_LINE = re.compile(r"^(\S+)Z info\s+(round_begun|task_received) .*?\brun=(\S+) round=(\d+)")


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
        waits = np.concatenate([1000 * np.array(one) for number, one in sorted(waited(bed).items()) if number > 1])
    note = (
        f"{len(waits):,} tasks of {rounds - 1} rounds, {case.processes} client processes; from the start of the attempt to the "
        "task in the client's keep"
    )
    for share in PERCENTILES:
        target = 1000 * case.received if share == 99 else None
        yield Row(f"task received, p{share}, {what}", float(np.percentile(waits, share)), "ms", target, load=load, note=note)
    note = f"the slowest of {rounds - 1} rounds, commit to commit as a watcher sees them; mean {mean(played.wall):.3g} s"
    yield Row(f"round, slowest, {what}", max(played.wall), "s", case.longest, load=load, note=note)
    note = f"peak after {rounds} rounds; {idle:.0f} MiB with everybody connected, before the first; target 800 MB"
    yield Row(f"server memory, {what}", peak, "MiB", case.memory, load=load, note=note)
    user, system = (after.user - before.user) / rounds, (after.system - before.system) / rounds
    note = f"user and system of the server's process, mean of {rounds} rounds; system {system:.2f} s"
    yield Row(f"server processor per round, {what}", user + system, "s", None, load=load, note=note)


def waited(bed: Federation) -> Mapping[int, list[float]]:
    """Seconds from the start of each round to each of its tasks being received, by round, as the logs tell."""
    begun = {number: at for what, number, at in _told(bed.daemon.log) if what == "round_begun"}
    found: dict[int, list[float]] = {number: [] for number in begun}
    for process in bed.clients.values():
        for what, number, at in _told(process.log):
            if what == "task_received":
                found[number].append(at - begun[number])
    return found


def _told(log: Path) -> Iterator[tuple[str, int, float]]:
    """Event, round, seconds since 1970."""
    for line in log.read_text(encoding="utf-8").splitlines():
        if match := _LINE.match(line):
            yield match[2], int(match[4]), datetime.fromisoformat(match[1] + "+00:00").timestamp()
