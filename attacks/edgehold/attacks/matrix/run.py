"""Plays what is missing of a matrix: in processes of this machine, or on a Ray cluster. Every cell is kept as it finishes."""

import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgehold.attacks.eval.cells import Cell, key, spread
from edgehold.attacks.eval.screen import progress
from edgehold.attacks.matrix.grid import Grid
from edgehold.attacks.matrix.play import Outcome, attempt
from edgehold.attacks.matrix.store import Store
from edgehold.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Progress:
    """What a call did. played: cells of this call; failed: cells without facts, of the whole matrix; stopped: by Ctrl-C."""

    cells: int
    played: int
    failed: int
    stopped: bool
    seconds: float


def play_all(grid: Grid, text: str, store: Store, data: Path | None, workers: int, ray: str = "") -> Progress:
    """Whatever has no facts yet. text: of the matrix file, kept beside the cells. ray: address of a cluster, empty: none."""
    began, started, load = time.monotonic(), time.time(), os.getloadavg()[0]
    store.bind(text, grid.matrix.digest, grid.missing)
    cells, known = grid.cells(), store.outcomes()
    left = [cell for cell in cells if not (found := known.get(key(cell))) or found.error]
    done, stopped = len(cells) - len(left), False
    work = partial(attempt, data=data)
    try:
        playing = _on_ray(ray, left, data) if ray else spread(work, left, min(workers, len(left)))
        # Closed at once when Ctrl-C comes: else the processes would go on with all that is left.
        with progress(grid.matrix.matrix.name, len(cells), "cells", done) as tell, closing(playing):
            for cell, outcome in playing:
                store.keep(cell, outcome)
                done += 1
                tell(done, _said(cell, outcome))
    except KeyboardInterrupt:
        stopped = True
    seconds = time.monotonic() - began
    played = done - (len(cells) - len(left))
    if played:
        store.clock(started, seconds, played, workers, load)
    outcomes = store.outcomes()
    failed = sum(bool(found.error) for cell in cells if (found := outcomes.get(key(cell))))
    return Progress(len(cells), played, failed, stopped, seconds)


def _said(cell: Cell, outcome: Outcome) -> str:
    came = "FAILED" if outcome.error else f"accuracy {outcome.facts['accuracy']:.3f}"
    return f"{cell['data']} {cell['defence']} {cell['attack']} seed {cell['seed']} {came}"


def _on_ray(address: str, cells: Sequence[Cell], data: Path | None) -> Generator[tuple[Cell, Outcome], None, None]:
    """As `spread`, on every processor of a cluster; nodes need this package, and the data in the same place."""
    import ray

    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--ray {address}: no cluster answers there: {error}", field="ray") from None
    try:
        # One thread per cell: sums repeat, and cells do not fight for cores.
        threads = {"env_vars": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}}
        remote = ray.remote(num_cpus=1, max_retries=0, runtime_env=threads)(attempt)
        waiting = {remote.remote(cell, data): cell for cell in cells}
        while waiting:
            (one,), _ = ray.wait(list(waiting), num_returns=1)
            cell = waiting.pop(one)
            try:
                yield cell, ray.get(one)
            except ray.exceptions.RayError as error:  # the process or its node is gone
                yield cell, Outcome({}, 0.0, "", f"{type(error).__name__}: {error}")
    finally:
        ray.shutdown()
