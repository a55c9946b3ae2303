"""How fast one process plays a federation of virtual clients, how soon it starts, and how much memory thousands need.

Digits, a perceptron 64-64-10, one local epoch in batches of 32. A round is everything a round is: draw, order, training,
codecs, law, aggregation. Each case is a process of its own, so that its start and its memory are all its own.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from benchmarks.frame import Options, Row, data_set, load_average

if TYPE_CHECKING:
    from edgehold.core.torch_task import TorchTask

NAME = "engine"
SUMMARY = "Virtual clients: milliseconds per round of 100, start, memory of 5,000"

TASK = "benchmarks.engine:make_task"
RECORDS = 32
"""Per client where there are more clients than the digits can be dealt to."""
IMAGES = 64
"""Fashion-MNIST records per client."""
MIB = 1 << 20


def rows(options: Options) -> Iterator[Row]:
    """One process per case."""
    clients, fleet = (10, 200) if options.quick else (100, 5000)
    rounds = max(options.rounds, 3 if options.quick else 40)
    all_ = f"round, {clients} of {clients} virtual clients"
    cases: list[tuple[str, dict[str, Any], float | None]] = [
        (all_, {}, 100.0),
        (f"{all_}, trained together", {"batch": True}, None),
        (f"{all_}, 2 processes", {"workers": 2}, None),
    ]
    for work, how, target in cases:
        if options.wants(work):
            load = load_average()
            options.say(f"{work} ...")
            found = play({"clients": clients, "cohort": clients, "rounds": rounds, **how})
            note = f"median of {rounds - 1} rounds; {found['processor']:.1f} ms of processor; {found['memory']:.0f} MiB"
            yield Row(work, found["round"], "ms", target, load=load, note=note)
            note = "from process start to the end of the first round: imports, data, tasks"
            yield Row(f"start, {work}", found["start"], "s", 4.0 if target else None, load=load, note=note)
    work = f"memory, round of 50 among {fleet:,} virtual clients"
    if options.wants(work):
        load = load_average()
        options.say(f"{work} ...")
        found = play({"clients": fleet, "cohort": 50, "rounds": rounds, "resampled": True})
        note = f"peak of all processes, {rounds} rounds; {found['round']:.0f} ms per round"
        yield Row(work, found["memory"], "MiB", 1024.0, load=load, note=note)


def play(case: dict[str, Any]) -> dict[str, float]:
    """Play a case in a process of its own and watch the memory of everything it starts.

    clients, cohort, rounds; workers, batch: as the engine takes them; batch_size: 32; resampled: see `make_task`; out: a file
    for records, first and last model (npz), for whoever plays the same; all clients then weigh the same.
    """
    began = time.time()
    command = [sys.executable, "-m", "benchmarks.engine", json.dumps(case | {"began": began})]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    peak = [0.0]
    watching = threading.Thread(target=_watch, args=(process.pid, peak))
    watching.start()
    out, _ = process.communicate(timeout=600)
    watching.join()
    if process.returncode:
        raise RuntimeError(f"the case {case} failed with exit code {process.returncode}")
    found: dict[str, float] = json.loads(out)
    return found | {"memory": peak[0] / MIB}


def _watch(pid: int, peak: list[float]) -> None:
    """Largest sum of resident memory over the process and its children (shared pages count once per process)."""
    try:
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            now = 0
            for one in (process, *process.children(recursive=True)):
                try:
                    now += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak[0] = max(peak[0], now)
            time.sleep(0.02)
    except psutil.NoSuchProcess:
        return


def make_task(device_index: int, devices: int, resampled: bool = False, images: bool = False) -> "TorchTask":
    """Digits dealt evenly; resampled: each client has `RECORDS` of them drawn by its number, for any number of clients.

    images: Fashion-MNIST and its convolutional network instead, `IMAGES` records drawn for each client.
    """
    from edgehold.core.rng import stream

    if not (resampled or images) or device_index < 0:
        return _images(-1) if images else _dealt(device_index, devices if device_index >= 0 else 1)
    whole = _images(0) if images else _whole()
    assert whole.train_data is not None
    inputs, targets = whole.train_data
    mine = stream(0, "resampled", device_index).integers(len(inputs), size=IMAGES if images else RECORDS)
    return whole.with_records((inputs[mine], targets[mine]))


def _dealt(device_index: int, devices: int) -> "TorchTask":
    from edgehold.attacks.eval.data import make_task

    return make_task("digits", device_index, devices)


@cache
def _whole() -> "TorchTask":
    return _dealt(0, 1)


@cache
def _images(device_index: int) -> "TorchTask":
    from edgehold.attacks.eval.data import make_task

    return make_task("fashion-mnist", device_index, 1, str(data_set("fashion-mnist")))


def _records(fleet: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs `x0`, `x1`, ... and targets `y0`, `y1`, ... of the clients of a fleet, in their order."""
    found: dict[str, Any] = {}
    for number, name in enumerate(sorted(fleet)):
        task: TorchTask = fleet[name]
        inputs, targets = task.records(np.arange(task.samples))
        found |= {f"x{number}": inputs.numpy(), f"y{number}": targets.numpy()}
    return found


def _case(case: dict[str, Any]) -> dict[str, float]:
    from edgehold.core.plan import parse_plan
    from edgehold.defenses import registry
    from edgehold.server import engine

    plan, settings = parse_plan(
        f"""
        [run]
        name = "bench"
        rounds = {case["rounds"]}
        task = "digits"
        [cohort]
        size = {case["cohort"]}
        over_select = 1.0
        [method]
        name = "fedavg"
        batch_size = {case.get("batch_size", 32)}
        [evaluation]
        every = {0 if case.get("images") else 1}
        {"[weights]" if case.get("out") else ""}
        {'by = "equal"' if case.get("out") else ""}
        """,
        registry.method,
    )
    options = {name: True for name in ("resampled", "images") if case.get(name)}
    fleet = engine.VirtualFleet(TASK, options, case["clients"])
    ends: list[tuple[float, float]] = []
    sampler: list[subprocess.Popen[bytes]] = []

    def ended(number: int, facts: dict[str, float]) -> None:
        ends.append((time.time(), time.process_time()))
        if number == 1 and "samples" in case:
            sampler.append(_sampled(case["samples"]))
        if number == case["rounds"] and sampler:
            sampler[0].send_signal(signal.SIGINT)
            sampler[0].wait(60)

    played = engine.run(
        plan, settings, fleet, fleet.own_copy(), on_round=ended, workers=case.get("workers", 1), batch=case.get("batch", False)
    )
    if case.get("out"):
        first = fleet.own_copy().initial(plan.run.seed)
        np.savez(case["out"], first=first, last=played.model.whole(), rate=settings.learning_rate, **_records(fleet))
    walls = [after[0] - before[0] for before, after in zip(ends, ends[1:], strict=False)]
    processor = (ends[-1][1] - ends[0][1]) / max(1, len(walls))
    return {"start": ends[0][0] - case["began"], "round": 1000 * median(walls), "processor": 1000 * processor}


def _sampled(samples: str) -> "subprocess.Popen[bytes]":
    """`perf` on this process, writing to a file until it is interrupted."""
    command = ["perf", "record", "-q", "-F", "499", "-p", str(os.getpid()), "-o", samples]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    print(json.dumps(_case(json.loads(sys.argv[1]))))
