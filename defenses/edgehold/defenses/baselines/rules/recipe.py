"""What a plan names, "pre-step+pre-step+rule", with its options: checked once, then applied every round."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import Sink, Vector
from edgehold.defenses.baselines.rules.catalogue import PRE_STEPS, RULES, Given, PreStep, Rule
from edgehold.defenses.baselines.rules.cloud import Basis, Cloud
from edgehold.defenses.baselines.rules.options import Values, admit
from edgehold.defenses.baselines.rules.rows import Rows


@dataclass(frozen=True, slots=True)
class Round:
    """What a recipe may know besides the updates. weights: claimed, positive, any scale; empty: all count the same.

    previous: the last combined update, None in the first round; only a recipe that `remembers` looks at it.
    rng: of this round; only a recipe that is `seeded` draws from it.
    """

    liars: int = 0
    weights: Sequence[float] = ()
    clients: Sequence[str] = ()
    previous: Vector | None = None
    rng: np.random.Generator = field(default_factory=lambda: stream(0))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Pre-steps, in the order in which they happen, and the rule that ends them."""

    name: str
    steps: tuple[PreStep, ...]
    rule: Rule
    options: Given

    @property
    def remembers(self) -> bool:
        """Whether each round needs the last combined update."""
        return self.rule.remembers

    @property
    def seeded(self) -> bool:
        """Whether each round needs a generator of its own."""
        return any(step.seeded for step in self.steps)

    def check(self, n: int, f: int) -> None:
        """`ConfigError` when f liars among n updates cannot be withstood; the message says what can."""
        points = self._points(n)
        if points < self.rule.fewest:
            raise ConfigError(
                f"rule {self.name} with {n} updates{self._left(n)}: it needs at least"
                f" {self._least(lambda left: left >= self.rule.fewest)}; raise the quorum",
                field="method.rule",
            )
        most = self.rule.most(points)
        if f > most:
            allowed = f"liars = 0 to {most}" if most else "liars = 0"
            enough = "another rule, such as trimmed_mean"
            if self.rule.most(4 * f + 4) >= f:
                enough = f"at least {self._least(lambda left: self.rule.most(left) >= f)} updates (quorum)"
            raise ConfigError(
                f"rule {self.name} cannot withstand {f} liars among {n} updates{self._left(n)};"
                f" allowed: {allowed}, or {enough}",
                field="method.liars",
            )
        self.rule.limit(points, f, self.options)

    def aggregate(self, rows: Rows, now: Round, sink: Sink) -> None:
        """Write the combined update, d float64 values, in order; the sink stays open. Rows are only read."""
        self.check(rows.n, now.liars)
        basis = Basis(rows, now.previous if self.remembers else None)
        self.fold(Cloud(basis, np.asarray(now.weights or [1.0] * rows.n, dtype=np.float64), now.clients), now, sink)

    def fold(self, cloud: Cloud, now: Round, sink: Sink) -> None:
        """As `aggregate`, for points whose inner products are known already."""
        for step in self.steps:
            cloud = step.apply(cloud, now.liars, self.options, now.rng)
        self.rule.write(cloud, now.liars, self.options, sink)

    def _points(self, n: int) -> int:
        for step in self.steps:
            n = step.points(n, self.options)
        return n

    def _left(self, n: int) -> str:
        return f" (mixed into {self._points(n)})" if self._points(n) != n else ""

    def _least(self, holds: Callable[[int], bool]) -> int:
        """Fewest updates whose points satisfy `holds`, which larger numbers satisfy too."""
        low, high = 0, 1
        while not holds(self._points(high)):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(self._points(middle)) else (middle, high)
        return high


def recipe(name: str, options: Values | None = None) -> Recipe:
    """The recipe that a plan calls `name`; `ConfigError` with the nearest name or option for an unknown one."""
    *before, last = [part.strip() for part in name.split("+")]
    for part in before:
        if part in RULES and part not in PRE_STEPS:
            raise ConfigError(
                f"rule {name!r}: {part!r} combines all updates and must come last; pre-steps: {', '.join(PRE_STEPS)}",
                field="method.rule",
            )
        if part not in PRE_STEPS:
            raise ConfigError(f"unknown pre-step {part!r}{suggest(part, list(PRE_STEPS))}", field="method.rule")
    for part in before:
        if before.count(part) > 1:
            raise ConfigError(f"rule {name!r} has the pre-step {part!r} twice", field="method.rule")
    if last in PRE_STEPS:
        raise ConfigError(f'rule {name!r} ends with a pre-step; add a rule, as in "{last}+trimmed_mean"', field="method.rule")
    if last not in RULES:
        raise ConfigError(f"unknown rule {last!r}{suggest(last, list(RULES))}", field="method.rule")
    steps, rule = tuple(PRE_STEPS[part] for part in before), RULES[last]
    if rule.named and any(step.merges for step in steps):
        raise ConfigError(f"rule {name!r}: {last} needs the update of one client, and buckets have none", field="method.rule")
    known = [option for step in steps for option in step.options] + list(rule.options)
    full = "+".join([*before, last])
    return Recipe(full, steps, rule, admit(options or {}, known, full))
