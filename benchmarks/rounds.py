"""How long a round takes, how much memory it needs, and how quickly the daemons are there.

Real processes over mutual TLS on loopback, everything journaled and synced as always, training that only adds a constant.
A round is measured end to end, from one commit to the next as a watcher sees them; what the server itself records (from
opening the round to its commit) stands beside it. Medians over all rounds but the first.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import fleet, limit
from benchmarks.frame import Options, Row, load_average

NAME = "rounds"
SUMMARY = "Seconds per round, memory, start-up: 2 to 1,000 clients, 40 KB to 200 MB"

STARTS = 5
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """values: float32 weights of the model; target: seconds per round; memory: MiB the server may reach."""

    work: str
    clients: int
    values: int
    target: float
    memory: float | None = None
    rounds: int = 0
    cohort: int = 0
    processes: int = 0


CASES = (
    Case("round, 10 clients x 40 KB", 10, 10_000, 0.080, rounds=30),
    Case("round, 50 clients x 40 KB", 50, 10_000, 0.400, rounds=20),
    Case("round, 10 clients x 4.5 MB", 10, 1_125_000, 0.500, rounds=10),
    Case("round, 10 clients x 45 MB", 10, 11_250_000, 3.0, memory=600),
    Case("round, 2 clients x 200 MB", 2, 50_000_000, 3.0, memory=900),
    Case("round of 100 among 1,000 clients x 4 KB", 1000, 1000, 2.0, memory=500, rounds=10, cohort=100, processes=4),
)
TINY = (
    Case("round, 2 clients x 4 KB", 2, 1000, 60.0, memory=8000),
    Case("round of 2 among 4 clients x 4 KB", 4, 1000, 60.0, cohort=2, processes=2),
)


def rows(options: Options) -> Iterator[Row]:
    """Start-up and idle memory, then a federation per case."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder:
        if any(options.wants(work) for work in ("fl-server ready", "fl-client connected", "idle")):
            yield from _daemons(Path(folder) / "daemons", options)
        for number, case in enumerate(TINY if options.quick else CASES):
            if options.wants(case.work):
                options.say(f"{case.work} ...")
                yield from _case(Path(folder) / str(number), case, options)


def _daemons(folder: Path, options: Options) -> Iterator[Row]:
    """The two daemons with one client and nothing to do."""
    load, starts = load_average(), 1 if options.quick else STARTS
    with fleet.federation(folder, 1000) as bed:
        ready = [bed.start_server()]
        for _ in range(starts - 1):
            fleet.stop(bed.daemon)
            ready.append(bed.start_server())
        yield Row("fl-server ready", median(ready), "s", 0.8, load=load, note=f"after process start, median of {starts}")
        fleet.enrol(bed, ["device-0"], 1000)
        connected = []
        for number in range(starts):
            if number:
                fleet.stop(bed.clients["process-0"])
                bed.clients["process-0"].log.unlink()
            began = time.monotonic()
            if number:
                bed.start_client("process-0")
            else:
                fleet.start(bed, ["device-0"], 1)
            connected.append(fleet.until_logged(bed.clients["process-0"], " connected ", began))
        yield Row(
            "fl-client connected", median(connected), "s", 0.8, load=load, note=f"after process start, median of {starts}"
        )
        time.sleep(1.0)
        for work, process, target in (("server", bed.daemon, 110.0), ("client without torch", bed.clients["process-0"], 90.0)):
            found = fleet.memory(fleet.pid(process))
            yield Row(f"idle {work}", found["now"] / MIB, "MiB", target, load=load, note="resident, one client connected")


def _case(folder: Path, case: Case, options: Options) -> Iterator[Row]:
    load = load_average()
    rounds = max(options.rounds, case.rounds) if not options.quick else 3
    cohort, size = case.cohort or case.clients, 4 * case.values
    processes = case.processes or case.clients
    clients = [f"device-{number:04}" for number in range(case.clients)]
    with fleet.many_files(fleet.FILES_PER_CLIENT * case.clients), fleet.federation(folder, case.values) as bed:
        bed.start_server()
        began = time.monotonic()
        fleet.enrol(bed, clients, case.values)
        enrolled = time.monotonic() - began
        fleet.start(bed, clients, processes)
        bed.wait_connected(case.clients, 120.0)
        connected = time.monotonic() - began - enrolled
        options.say(f"enrolled in {enrolled:.1f} s, connected in {connected:.1f} s")
        played = fleet.play(bed, "bench", rounds, cohort)
        server = fleet.memory(fleet.pid(bed.daemon))["peak"] / MIB
        client = max(fleet.memory(fleet.pid(process))["peak"] for process in bed.clients.values()) / MIB
    physical = None
    if not options.quick and cohort == case.clients:
        physical = limit.seconds(case.clients, size)
    seconds = median(played.wall)
    note = (
        f"median of {rounds - 1} rounds, {processes} client processes; slowest {max(played.wall):.3g} s; by the server's "
        f"record {median(played.seconds):.3g} s; {2 * cohort * size / 1e6 / seconds:.0f} MB/s both ways together"
    )
    yield Row(case.work, seconds, "s", case.target, limit=physical, load=load, note=note)
    what = case.work.removeprefix("round, ").removeprefix("round of ")
    peak = f"peak after {rounds} rounds"
    flat = (2.5 * size + 150e6) / MIB
    bound = min(flat, case.memory or flat)
    yield Row(f"server memory, {what}", server, "MiB", bound, load=load, note=f"{peak}; 2.5 payloads + 150 MB: {flat:.0f} MiB")
    per = "the largest process" if processes == case.clients else f"the largest of {processes} processes"
    yield Row(f"client memory, {what}", client, "MiB", None, load=load, note=f"{peak}, {per}")
    if case.processes:
        yield Row(f"connecting, {what}", connected, "s", None, load=load, note=f"{processes} processes from start to stream")
