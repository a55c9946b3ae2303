"""What a reproduction is judged by, and how it is told."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise. value: mean over seeds; spread: their standard deviation (0 for one seed).

    sense: "<=" when the value must not exceed the target, ">=" when it must reach it.
    """

    name: str
    target: float
    value: float
    spread: float
    sense: str = "<="

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return self.value <= self.target if self.sense == "<=" else self.value >= self.target

    def as_dict(self) -> dict[str, Any]:
        """For JSON, rounded to what the seeds can carry."""
        found = asdict(self) | {"holds": self.holds}
        return found | {"value": round(self.value, 5), "spread": round(self.spread, 5)}


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers beside the bars. Every row has as many cells as there are heads."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Report:
    """notes: what a reader must know to trust or doubt the numbers."""

    bars: Sequence[Bar]
    tables: Sequence[Table] = ()
    notes: Sequence[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every bar does."""
        return all(bar.holds for bar in self.bars)

    def text(self) -> str:
        """For terminals."""
        judged = Table(
            "bars", ("bar", "target", "value", "spread", "holds"),
            [(b.name, f"{b.sense} {b.target:g}", f"{b.value:.4f}", f"{b.spread:.4f}", "yes" if b.holds else "NO")
             for b in self.bars],
        )  # fmt: skip
        parts = [aligned(table) for table in (*self.tables, judged)]
        return "\n\n".join([*parts, *self.notes])


def mean_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (dividing by seeds - 1; 0 for one seed)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def told(values: Sequence[float]) -> str:
    """Mean and spread as a cell."""
    mean, spread = mean_spread(values)
    return f"{mean:.3f} +- {spread:.3f}" if len(values) > 1 else f"{mean:.3f}"


def aligned(table: Table) -> str:
    """Columns of equal width under a title."""
    lines = [list(table.heads), *map(list, table.rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(table.heads))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([table.title, *(f"  {line}" for line in body)])


_HOLDS = {True: "yes", False: "**no**"}


def markdown(found: dict[str, Any], command: str) -> str:
    """What `fl-eval reproduce --json` wrote, as the measured part of a method's card. command: that gave it."""
    judged = Table(
        "Bars", ("bar", "target", "mean", "sd over seeds", "holds"),
        [(b["name"], f"{b['sense']} {b['target']:g}", f"{b['value']:.4f}", f"{b['spread']:.4f}", _HOLDS[b["holds"]])
         for b in found["bars"]],
    )  # fmt: skip
    tables = [judged, *(Table(**table) for table in found["tables"])]
    told = f"`{command}`: {len(found['cells'])} runs, {found['processor_seconds']:.0f} processor seconds; seeds 0 to "
    lines = [f"{told}{found['seeds'] - 1}; commit {', '.join(found['commits'])}."]
    for table in tables:
        lines += ["", f"{table.title}:", "", f"| {' | '.join(table.heads)} |", "|" + " --- |" * len(table.heads)]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in found["notes"])])
