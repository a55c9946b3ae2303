"""A step of private training beside a plain one: DP-EF SGD on the small CNN, its memory, its noise, a charge to the ledger.

A step is what a device does: clipped sums at two clips, error vector, noise, descent. With `--peer` Opacus is measured in the
same minutes: DP-SGD's single clip and no error vector, noise from torch's ordinary generator. Everything compared takes turns.
One process, one thread, as `TorchTask` has it.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.frame import ROOT, Options, Row, load_average
from benchmarks.rules_peer import resident
from edgehold.core.privacy.ledger import Cause, Ledger, Limit
from edgehold.core.privacy.noise import SystemNoise
from edgehold.core.privacy.sampling import GROUP, in_bins, system_words
from edgehold.core.task import LocalTraining
from edgehold.core.vectors import Array
from edgehold.defenses.dp_ef_sgd.client import _Descent
from edgehold.defenses.dp_ef_sgd.state import Training

NAME = "private"
SUMMARY = "DP-EF SGD: a private step beside a plain one (--peer: Opacus), memory, noise, ledger"
DOCS = ROOT / "docs" / "methods" / "dp_ef_sgd.md"
"""Where `--write-docs` puts the table."""

BATCH = 256
MODES = ("hooks", "ew", "functorch", "ghost")
"""Opacus' ways to clip."""
HOW = Training(clip=1.0, ceiling=3.0, noise_multiplier=1.0, batch_size=BATCH, bins=1)
QUIET = Training(clip=1.0, ceiling=3.0, noise_multiplier=30.0)
LIVING = Training(clip=1.0, ceiling=3.0, error_clip=0.1, sampling="poisson", rate=0.01, reset=False, noise_multiplier=30.0)
"""What is charged: budgets that bear 200 rounds."""


def rows(options: Options) -> Iterator[Row]:
    """Step, Opacus beside it, memory, noise, ledger."""
    batch, times = (16, 2) if options.quick else (BATCH, 25)
    aim = None if options.quick else 1.0
    if options.wants_any("private step"):
        yield from _steps(options, batch, times, aim)
    if options.wants("memory of a step"):
        load = load_average()
        private, plain = (_memory(kind, batch) for kind in ("private", "plain"))
        values = _private(batch)[1]
        note = f"growth over rest; plain {plain:.1f} MiB; target: 1.5 times that and 8 bytes for each of {values:,} values"
        yield Row("memory of a step", private, "MiB", aim and 1.5 * plain + 8 * values / (1 << 20), None, load, note)
    if options.wants("noise"):
        noise, count = SystemNoise(), 1000 if options.quick else 1_000_000
        load = load_average()
        took = median(_seconds(lambda: noise.draw(count)) for _ in range(1 + times // 3))
        yield Row("noise", 1e6 * took / count, "us/value", aim and 0.12, None, load, f"{count:,} values at a time")
    if options.wants_any("charge"):
        for name, how in (("charge to the ledger", QUIET), ("charge, error vector that lives on", LIVING)):
            load = load_average()
            found = _charges(how, options.folder, 5 if options.quick else 200)
            note = f"median of {len(found)}, synced; slowest {1e3 * max(found):.1f} ms"
            yield Row(name, 1e3 * median(found), "ms", aim and 5.0, None, load, note)


def _steps(options: Options, batch: int, times: int, aim: float | None) -> Iterator[Row]:
    works: dict[str, Callable[[], object]] = {"private": _private(batch)[0], "plain": _plain(batch)}
    if options.peer:
        works |= _opacus(options, batch)
    load = load_average()
    took = _in_turns(works, times)
    ours, plain = took.pop("private"), took.pop("plain")
    note = f"batch of {batch}, small CNN on 28 x 28; limit: a plain step"
    yield Row("private step", 1e3 * ours, "ms", aim and 3e3 * plain, 1e3 * plain, load, note)
    if took:
        fastest = min(took, key=lambda name: took[name])
        note = ", ".join(f"{name} {1e3 * value:.1f}" for name, value in took.items()) + " ms"
        limit = 1e3 * took[fastest]
        yield Row("private step beside Opacus", 1e3 * ours, "ms", aim and 1.3 * limit, limit, load, f"limit: {fastest}; {note}")


def _data(batch: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, batch)


def _module() -> Any:
    from edgehold.client.models import make_model

    return make_model("small-cnn", (1, 28, 28), 10)


def _task(batch: int) -> Any:
    from torch import nn

    from edgehold.core.torch_task import TorchTask

    return TorchTask(_module, _data(batch), None, nn.functional.cross_entropy)


def _private(batch: int) -> tuple[Callable[[], object], int]:
    """A step, and how many values the model has."""
    from edgehold.core.torch_persample import ClippedSums

    task = _task(batch)
    descent, sums = _Descent(HOW, task.initial(0), None, SystemNoise()), ClippedSums(task)

    def step() -> None:
        (groups,) = in_bins(batch, 1, -(-batch // GROUP), system_words)
        task.load(descent.weights.astype(np.float32))
        descent.step(sums(groups, descent.clips))

    return step, task.schema.size


def _plain(batch: int) -> Callable[[], object]:
    task, rng = _task(batch), np.random.default_rng(0)
    start, how = task.initial(0), LocalTraining(epochs=1, batch_size=batch, learning_rate=0.01)
    return lambda: task.train(start, how, rng)


def _opacus(options: Options, batch: int) -> dict[str, Callable[[], object]]:
    """A step of each of Opacus' modes; {} where it is not installed."""
    try:
        from opacus import PrivacyEngine
    except ImportError:
        options.say("Opacus is not installed (edgehold[private]): its rows are left out")
        return {}
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    found: dict[str, Callable[[], object]] = {}
    inputs, targets = (torch.from_numpy(part) for part in _data(batch))
    for mode in MODES:
        module = _module()
        made: Any = dict(
            module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.01), max_grad_norm=1.0, noise_multiplier=1.0,
            data_loader=DataLoader(TensorDataset(inputs, targets), batch_size=batch), poisson_sampling=False,
            grad_sample_mode=mode,
        )  # fmt: skip
        loss: Any = torch.nn.CrossEntropyLoss()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if mode == "ghost":
                module, optimiser, loss, _ = PrivacyEngine().make_private(criterion=loss, **made)
            else:
                module, optimiser, _ = PrivacyEngine().make_private(**made)

        def step(module: Any = module, optimiser: Any = optimiser, loss: Any = loss) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimiser.zero_grad()
                loss(module(inputs), targets).backward()
                optimiser.step()

        found[mode] = step
    return found


def _memory(kind: str, batch: int) -> float:
    """MiB by which a step raises a process above its rest, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.private", kind, str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def _grown(kind: str, batch: int) -> float:
    make = (lambda size: _private(size)[0]) if kind == "private" else _plain
    make(8)()  # what libraries set up once
    step = make(batch)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    step()
    return (resident("VmHWM") - before) / 1024


def _charges(how: Training, folder: Path, times: int) -> list[float]:
    """Seconds of each charge, round after round."""
    found = []
    with tempfile.TemporaryDirectory(dir=folder) as where:
        ledger = Ledger(Path(where) / "ledger.db")
        steps, epochs = 0, 0
        for number in range(1, times + 1):
            released = how.released(26_010, steps, epochs, "0" * 64) if how.lives_on else how.released(26_010)
            cause = Cause("bench", number, 1, b"nonce")
            found.append(_seconds(partial(ledger.charge, "data", Limit(400.0, 1e-5), cause, released)))
            steps, epochs = steps + how.steps_per_round, epochs + how.local_epochs
        ledger.close()
    return found


def _in_turns(works: dict[str, Callable[[], object]], times: int) -> dict[str, float]:
    """Median seconds of each, one after the other in every turn, so that a busy machine slows all."""
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(times):
        for name, work in works.items():
            found[name].append(_seconds(work))
    return {name: median(values) for name, values in found.items()}


def _seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(_grown(sys.argv[1], int(sys.argv[2]))))
