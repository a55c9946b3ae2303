"""Progress while a command works: a bar on a terminal, lines elsewhere. Always on stderr, so that answers stay clean."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

Tell = Callable[[int, str], None]
"""(steps done so far, what to say about the last one)."""

LINE_EVERY_S = 5.0
"""Without a terminal: a line at most so often, and for the last step."""


@contextlib.contextmanager
def progress(title: str, total: int, unit: str, done: int = 0) -> Iterator[Tell]:
    """Something of `total` steps begins, of which `done` were done before."""
    if not sys.stderr.isatty():
        yield _lines(title, total, unit, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description}"), BarColumn(24), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[said]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done, said="")
        yield lambda step, said: bar.update(task, completed=step, said=said)


def _lines(title: str, total: int, unit: str, done: int) -> Tell:
    began = last = time.monotonic()

    def tell(step: int, said: str) -> None:
        nonlocal last
        now = time.monotonic()
        if step < total and step != done + 1 and now - last < LINE_EVERY_S:
            return
        last = now
        left = (now - began) / max(1, step - done) * (total - step)
        click.echo(f"{title}  {step}/{total} {unit}  {now - began:.1f} s, {left:.0f} s left  {said}".rstrip(), err=True)

    return tell
