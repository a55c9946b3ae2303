"""Plays what is missing of a matrix: in processes of this machine, or on a Ray cluster. Every cell is kept as it finishes."""

import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from edgehold.attacks.eval.cells import Cell, code, key, spread
from edgehold.attacks.eval.screen import progress
from edgehold.attacks.matrix.grid import Grid, named
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
    cells, known = [*grid.audits(), *grid.cells()], store.outcomes()
    left = [cell for cell in cells if not (found := known.get(key(cell))) or found.error]
    done, stopped = len(cells) - len(left), False
    work = partial(attempt, data=data)
    try:
        playing = _on_ray(ray, left, data) if ray else here(work, left, min(workers, len(left)))
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
    fact = "epsilon_lower" if cell.get("audit") == "one_run" else "accuracy"
    came = "FAILED" if outcome.error else f"{fact} {outcome.facts[fact]:.3f}"
    return f"{named(cell)} {came}"


def here(
    work: Callable[[Cell], Outcome], cells: Sequence[Cell], workers: int
) -> Generator[tuple[Cell, Outcome], None, None]:  # fmt: skip
    """As `spread`, and a process that ends (out of memory) costs one cell: those that it may have been at are tried alone."""
    left = {key(cell): cell for cell in cells}
    while left:
        try:
            with closing(spread(work, list(left.values()), min(workers, len(left)))) as playing:
                for cell, outcome in playing:
                    del left[key(cell)]
                    yield cell, outcome
        except BrokenProcessPool:
            # Cells are begun in order, so that the lost ones are among the first.
            for cell in list(left.values())[:workers]:
                del left[key(cell)]
                yield cell, _alone(work, cell)


def _alone(work: Callable[[Cell], Outcome], cell: Cell) -> Outcome:
    try:
        (found,) = spread(work, [cell], 2)  # 2: in a process of its own, never in this one
    except BrokenProcessPool:
        return Outcome({}, 0.0, code(), "the process that played this cell ended; was it out of memory?")
    return cast(Outcome, found[1])


def _on_ray(address: str, cells: Sequence[Cell], data: Path | None) -> Generator[tuple[Cell, Outcome], None, None]:
    """As `spread`, on every processor of a cluster; nodes need this package, and the data in the same place."""
    import ray

    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises bare ones, too, where its processes do not come up in time
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
