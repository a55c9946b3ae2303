"""Cells of a table played on all cores, each kept as soon as it is known, so that a long table goes on where it was left."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from edgehold.attacks.eval import reproductions
from edgehold.attacks.eval.screen import progress
from edgehold.core.about import VERSION
from edgehold.core.errors import FlError

Cell = dict[str, Any]
"""Everything that determines one run (settings, seed), as JSON; never a path."""


@dataclass(frozen=True, slots=True)
class Played:
    """A cell and what came out. commit: of the code that played it."""

    cell: Cell
    value: dict[str, float]
    seconds: float
    commit: str


def play_all(name: str, cells: Sequence[Cell], data: Path | None, keep: Path | None, workers: int) -> list[Played]:
    """Every cell's outcome, in the order of `cells`. keep: folder of finished cells; those found there are not played again."""
    commit = code()
    known = _found(keep / f"{name}.jsonl") if keep else {}
    left = [cell for cell in cells if key(cell) not in known]
    playing = spread(partial(_play, name, data=data), left, min(workers, len(left)))
    # Closed at once when Ctrl-C comes: else the processes would go on with all that is left.
    with progress(name, len(cells), "cells", len(cells) - len(left)) as tell, closing(playing):
        done = len(cells) - len(left)
        for cell, (value, seconds) in playing:
            played = Played(cell, value, seconds, commit)
            known[key(cell)] = played
            if keep:
                _keep(keep / f"{name}.jsonl", played)
            done += 1
            tell(done, " ".join(str(cell[field]) for field in cell if field not in ("rounds", "dataset")))
    return [known[key(cell)] for cell in cells]


def key(cell: Cell) -> str:
    """Name of a cell."""
    return hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()


def code() -> str:
    """Commit of the code, "+" when the tree differs from it; the version where there is no repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ":/*.py"], check=False, capture_output=True).returncode
        return head + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return VERSION


def spread(work: Callable[[Cell], Any], cells: Sequence[Cell], workers: int) -> Generator[tuple[Cell, Any], None, None]:
    """Every cell with what `work` makes of it, as they come: in this process, or in so many others of one thread each.

    work: picklable where workers is above 1.
    """
    if workers <= 1:
        for cell in cells:
            yield cell, work(cell)
        return
    # One thread per process: sums repeat, and processes do not fight for cores.
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    try:
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow, initargs=(theirs,))
        try:
            jobs: dict[Future[Any], Cell] = {pool.submit(work, cell): cell for cell in cells}
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        except BaseException:
            ours.close()  # whoever wants no more, by Ctrl-C too, does not wait for cells at work
            raise
        finally:
            # One call: a second one would take back what the first said of the cells that wait.
            pool.shutdown(cancel_futures=True)
    finally:
        ours.close()
        theirs.close()
        for variable, before in threads.items():
            if before is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = before


def _follow(stop: Connection) -> None:
    """A worker process: leaves Ctrl-C to its parent; ends when that is gone, however it went, or closes its end of `stop`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel, stop])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _play(name: str, cell: Cell, data: Path | None) -> tuple[dict[str, float], float]:
    began = time.process_time()
    value = reproductions.find(name).play(cell, data)
    return value, time.process_time() - began


def _found(path: Path) -> dict[str, Played]:
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            played = Played(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue  # a line cut short when the command was killed: that cell is played again
        known[key(played.cell)] = played
    return known


def _keep(path: Path, played: Played) -> None:
    line = json.dumps({name: getattr(played, name) for name in Played.__slots__})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise FlError(f"{path}: cannot be written: {error}") from None
