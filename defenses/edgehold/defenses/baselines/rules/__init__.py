"""Rules that combine n updates into one, by name.

A rule that withstands liars ignores weights on purpose: a weight is a claim about oneself, and f liars with ten times
the weight would be ten times f liars, more than the rule was told of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Sink
from edgehold.defenses.baselines.rules.coordinatewise import average, median, trimmed_mean
from edgehold.defenses.baselines.rules.distance import krum
from edgehold.defenses.baselines.rules.rows import Rows, VectorRows

__all__ = ["RULES", "Rows", "Rule", "VectorRows", "rule"]

Aggregate = Callable[[Rows, Sequence[float], int, Sink], None]
"""(rows, weights, f, sink): writes the combined update, d float64 or float32 values, in order, and leaves the sink open."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. most: largest number of liars it withstands among n updates; fails_when: what breaks it, for its card."""

    name: str
    summary: str
    source: str
    fails_when: str
    most: Callable[[int], int]
    aggregate: Aggregate
    fewest: int = 1

    def check(self, n: int, f: int) -> None:
        """`ConfigError` when the rule cannot withstand f liars among n updates; the message says what it can."""
        if n < self.fewest:
            raise ConfigError(
                f"rule {self.name} with {n} updates: it needs at least {self.fewest}; raise the quorum", field="method.rule"
            )
        most = self.most(n)
        if f > most:
            allowed = f"liars = 0 to {most}" if most else "liars = 0"
            raise ConfigError(
                f"rule {self.name} cannot withstand {f} liars among {n} updates; allowed: {allowed}, or {self._enough(f)}",
                field="method.liars",
            )

    def _enough(self, f: int) -> str:
        """How many updates would do, if any number does."""
        if self.most(4 * f + 4) < f:
            return "another rule, such as trimmed_mean"
        return f"at least {next(n for n in range(self.fewest, 4 * f + 5) if self.most(n) >= f)} updates (quorum)"


_ALL = (
    Rule(
        "average",
        "Mean weighted by the claimed record counts",
        "McMahan et al. 2017, algorithm 1",
        "a single liar moves it anywhere the clip allows",
        lambda n: 0,
        average,
    ),
    Rule(
        "median",
        "Middle value of each coordinate",
        "Yin et al. 2018, definition 1",
        "half of the updates lie, or honest ones differ so much that small consistent shifts add up (ALIE)",
        lambda n: max(0, (n - 1) // 2),
        median,
    ),
    Rule(
        "trimmed_mean",
        "Mean of each coordinate without its f smallest and f largest values",
        "Yin et al. 2018, definition 2",
        "more than f updates lie, or honest ones differ so much that small consistent shifts add up (ALIE)",
        lambda n: max(0, (n - 1) // 2),
        trimmed_mean,
    ),
    Rule(
        "krum",
        "The one update closest to its n - f - 2 nearest neighbours",
        "Blanchard et al. 2017, section 4",
        "devices hold different kinds of data: it follows one of them; or liars copy each other close to the honest",
        lambda n: max(0, (n - 3) // 2),
        krum,
        fewest=3,
    ),
)

RULES: Mapping[str, Rule] = {entry.name: entry for entry in _ALL}
"""Name in a plan -> rule."""


def rule(name: str) -> Rule:
    """The rule; `ConfigError` with the nearest name for an unknown one."""
    if name not in RULES:
        raise ConfigError(f"unknown rule {name!r}{suggest(name, list(RULES))}", field="method.rule")
    return RULES[name]
