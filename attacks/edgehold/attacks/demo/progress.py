"""Progress while the runs go on: a live bar per run on a terminal, lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import click

from edgehold.attacks.demo.plan import Scenario
from edgehold.server.desk.show import size

OnRound = Callable[[int, dict[str, float]], None]
"""(number of a round that is done, its facts)."""

LINE_EVERY = 5
"""Without a terminal: a line after so many rounds."""


class Screen(Protocol):
    """Where progress goes."""

    def say(self, text: str) -> None:
        """One line."""

    def run(self, scenario: Scenario, rounds: int) -> OnRound:
        """A run begins. The result is told each round's number and facts."""


class Lines:
    """A line every few rounds: for logs and pipes."""

    def say(self, text: str) -> None:
        """One line."""
        click.echo(text)

    def run(self, scenario: Scenario, rounds: int) -> OnRound:
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

    def run(self, scenario: Scenario, rounds: int) -> OnRound:
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
