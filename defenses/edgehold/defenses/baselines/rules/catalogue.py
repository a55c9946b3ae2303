"""Every rule and pre-step by the name it has in a plan, with what it assumes, what breaks it and what it costs.

A rule that withstands liars ignores weights on purpose: a weight is a claim about oneself, and f liars with ten times
the weight would be ten times f liars, more than the rule was told of.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import comb

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Sink
from edgehold.defenses.baselines.rules import coordinatewise, distance, iterative, presteps, spectral
from edgehold.defenses.baselines.rules.cloud import Cloud
from edgehold.defenses.baselines.rules.diameter import mda
from edgehold.defenses.baselines.rules.options import Option, Value

Given = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Card:
    """What stands in docs/rules.md. cost: passes over the updates and what happens between them."""

    name: str
    summary: str
    assumes: str
    fails_when: str
    cost: str
    source: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. most: largest number of liars it withstands among n points; fewest: points it needs at all.

    write: (points, f, options, sink) writes the combined update, d float64 values, in order, and leaves the sink open.
    remembers: it needs its last result. named: it needs points that belong to
    single clients. votes: its result is a step, no point among the updates. looks: it looks at single coordinates; without,
    its result follows from inner products alone. limit: refuses what would take too long.
    """

    card: Card
    most: Callable[[int], int]
    write: Callable[[Cloud, int, Given, Sink], None]
    options: tuple[Option, ...] = ()
    fewest: int = 1
    remembers: bool = False
    named: bool = False
    votes: bool = False
    looks: bool = False
    limit: Callable[[int, int, Given], None] = lambda n, f, given: None


@dataclass(frozen=True, slots=True)
class PreStep:
    """One pre-step. points: how many points it leaves of n; seeded: it draws from the round's generator.

    merges: its points belong to no single client any more.
    """

    card: Card
    apply: Callable[[Cloud, int, Given, np.random.Generator], Cloud]
    options: tuple[Option, ...] = ()
    points: Callable[[int, Given], int] = lambda n, given: n
    seeded: bool = False
    merges: bool = False


def _minority(n: int) -> int:
    return max(0, (n - 1) // 2)


def _few_subsets(n: int, f: int, given: Given) -> None:
    if comb(n, f) > spectral.SUBSETS:
        raise ConfigError(
            f"rule smea compares every subset: {comb(n, f):.3g} for {f} liars among {n} updates; at most {spectral.SUBSETS}"
            " are allowed; take caf or mda, or a smaller cohort",
            field="method.rule",
        )


def _keep_at_most(n: int, f: int, given: Given) -> None:
    if int(given["keep"]) > n - f:
        raise ConfigError(
            f"rule multi_krum with keep = {given['keep']}: at most {n - f} of {n} updates can be kept with {f} liars",
            field="method.rule_options.keep",
        )


_RULES = (
    Rule(
        Card(
            "average",
            "Mean weighted by the claimed record counts (equal weights behind nnm and bucketing)",
            "nobody lies",
            "a single liar moves it anywhere the clip allows",
            "1 pass",
            "McMahan et al. 2017, algorithm 1",
        ),
        lambda n: 0,
        lambda cloud, f, given, sink: cloud.write(cloud.weights / cloud.weights.sum(), sink),
    ),
    Rule(
        Card(
            "median",
            "Middle value of each coordinate",
            "fewer than half lie",
            "honest updates differ so much that small consistent shifts add up (ALIE)",
            "1 pass; selection per coordinate",
            "Yin et al. 2018, definition 1",
        ),
        _minority,
        lambda cloud, f, given, sink: coordinatewise.median(cloud.rows(), sink),
        looks=True,
    ),
    Rule(
        Card(
            "trimmed_mean",
            "Mean of each coordinate without its f smallest and f largest values",
            "at most f of 2f + 1 or more lie",
            "more than f lie, or small consistent shifts add up (ALIE)",
            "1 pass; selection per coordinate",
            "Yin et al. 2018, definition 2",
        ),
        _minority,
        lambda cloud, f, given, sink: coordinatewise.trimmed_mean(cloud.rows(), f, sink),
        looks=True,
    ),
    Rule(
        Card(
            "meamed",
            "Mean, per coordinate, of the n - f values nearest the median",
            "fewer than half lie",
            "values just inside the honest spread are kept and pull (ALIE)",
            "1 pass; sort per coordinate",
            "Xie et al. 2018, mean around median",
        ),
        _minority,
        lambda cloud, f, given, sink: coordinatewise.mean_around_median(cloud.rows(), cloud.n - f, sink),
        looks=True,
    ),
    Rule(
        Card(
            "sign_majority",
            "Each coordinate moves by a fixed step to where most updates point",
            "fewer than half lie; honest updates agree on signs",
            "honest updates disagree (uneven data, late rounds): liars then decide; the step does not shrink by itself",
            "1 pass",
            "Bernstein et al. 2019, algorithm 1",
        ),
        _minority,
        lambda cloud, f, given, sink: coordinatewise.sign_majority(cloud.rows(), float(given["step"]), sink),
        (Option("step", None, "how far a coordinate moves per round, such as 0.001", 1e-12, 1e3),),
        votes=True,
        looks=True,
    ),
    Rule(
        Card(
            "krum",
            "The one update closest to its n - f - 2 nearest neighbours",
            "n at least 2f + 3, honest updates alike",
            "devices hold different kinds of data: it follows one of them; liars copy each other close to the honest",
            "1 pass for distances, 1 row",
            "Blanchard et al. 2017, section 4",
        ),
        lambda n: max(0, (n - 3) // 2),
        lambda cloud, f, given, sink: cloud.write(distance.krum(cloud, f), sink),
        fewest=3,
    ),
    Rule(
        Card(
            "multi_krum",
            "Mean of the n - f updates with the smallest Krum scores",
            "n at least 2f + 3, honest updates alike",
            "liars hide among the honest: it keeps n - f whoever they are",
            "2 passes",
            "Blanchard et al. 2017, section 5",
        ),
        lambda n: max(0, (n - 3) // 2),
        lambda cloud, f, given, sink: cloud.write(distance.multi_krum(cloud, f, int(given["keep"])), sink),
        (Option("keep", 0, "how many are averaged; 0: n - f", 0, 1_000_000, whole=True),),
        fewest=3,
        limit=_keep_at_most,
    ),
    Rule(
        Card(
            "bulyan",
            "Krum picks n - 2f updates one by one; of those, per coordinate, the mean of the n - 4f nearest the median",
            "n at least 4f + 3",
            "few clients: a quarter of liars is more than it takes; uneven data",
            "1 pass for distances, 1 pass with a sort",
            "El Mhamdi et al. 2018, section 4",
        ),
        lambda n: max(0, (n - 3) // 4),
        lambda cloud, f, given, sink: distance.bulyan(cloud, f, sink),
        fewest=3,
        looks=True,
    ),
    Rule(
        Card(
            "geometric_median",
            "Point of smallest sum of distances to all updates (smoothed Weiszfeld)",
            "fewer than half lie",
            "liars sit together just outside the honest; uneven data widen what they can move",
            "2 passes, any number of iterations",
            "Pillutla et al. 2022, algorithm 2",
        ),
        _minority,
        lambda cloud, f, given, sink: cloud.write(
            iterative.geometric_median(cloud, float(given["nu"]), int(given["iterations"])), sink
        ),
        (
            Option("nu", 0.1, "distances below it count as it", 1e-12, 1e9),
            Option("iterations", 100, "most Weiszfeld steps", 1, 10_000, whole=True),
        ),
    ),
    Rule(
        Card(
            "centred_clipping",
            "From the last result, steps by the mean of the differences, each cut to a radius",
            "the radius fits the honest spread; the last result was sound",
            "the radius is too large (liars move it by iterations x radius x their share per round), or too small to learn",
            "2 passes, any number of iterations; one vector of state",
            "Karimireddy et al. 2021, algorithm 2",
        ),
        _minority,
        lambda cloud, f, given, sink: cloud.write_shares(
            iterative.centred_clipping(cloud, float(given["radius"]), int(given["iterations"])), sink
        ),
        (
            Option("radius", None, "largest length of a difference, such as 1.0", 1e-12, 1e12),
            Option("iterations", 1, "steps per round", 1, 1000, whole=True),
        ),
        remembers=True,
    ),
    Rule(
        Card(
            "mda",
            "Mean of the n - f updates of smallest diameter, found exactly",
            "fewer than half lie",
            "liars stay within the honest diameter",
            "2 passes; a cover search between them, exponential in f at worst",
            "El Mhamdi et al. 2021; Rousseeuw 1985",
        ),
        _minority,
        lambda cloud, f, given, sink: cloud.write(mda(cloud, f), sink),
    ),
    Rule(
        Card(
            "monna",
            "Mean of the n - f updates nearest that of one trusted client",
            "the trusted client is honest and takes part in every round",
            "it lies, or its data are unlike the others'",
            "2 passes",
            "Farhadkhani et al. 2023, nearest-neighbour averaging",
        ),
        _minority,
        lambda cloud, f, given, sink: cloud.write(distance.monna(cloud, f, str(given["trusted"])), sink),
        (Option("trusted", None, 'the id of a client, such as "clinic-1"', word=True),),
        named=True,
    ),
    Rule(
        Card(
            "caf",
            "Of means weighted down along the widest direction, the one of smallest spread",
            "fewer than half lie; honest spread is small in every direction",
            "liars stay within the honest spread in every direction",
            "2 passes; at most n spectra of n x n",
            "Allouah et al. 2025, covariance-bound agnostic filter",
        ),
        _minority,
        lambda cloud, f, given, sink: cloud.write(spectral.caf(cloud, f), sink),
    ),
    Rule(
        Card(
            "dnc",
            "Mean after the update farthest along the widest direction was removed, f times",
            "liars agree on few directions",
            "liars spread over as many directions as the honest",
            "2 passes; f spectra of n x n",
            "Shejwalkar and Houmansadr 2021, algorithm 2",
        ),
        _minority,
        lambda cloud, f, given, sink: cloud.write(spectral.dnc(cloud, f, float(given["filtering"])), sink),
        (Option("filtering", 1.0, "removed updates per liar", 0.5, 2.0),),
    ),
    Rule(
        Card(
            "smea",
            "Mean of the n - f updates whose covariance has the smallest largest eigenvalue",
            f"fewer than half lie; at most {spectral.SUBSETS:,} subsets",
            "liars stay within the honest spread",
            "2 passes; a spectrum per subset",
            "Allouah et al. 2023, section 3",
        ),
        _minority,
        lambda cloud, f, given, sink: cloud.write(spectral.smea(cloud, f), sink),
        limit=_few_subsets,
    ),
)

_PRE_STEPS = (
    PreStep(
        Card(
            "nnm",
            "Every update becomes the mean of the n - f nearest it",
            "fewer than half lie; meant for uneven data",
            "liars close to the honest are mixed into them",
            "1 pass for distances, and a matrix product where the rule looks at coordinates",
            "Allouah et al. 2023, nearest-neighbour mixing",
        ),
        lambda cloud, f, given, rng: presteps.nnm(cloud, f),
    ),
    PreStep(
        Card(
            "bucketing",
            "Random buckets of updates become their means",
            "f liars among ceil(n / bucket_size) buckets are still few enough for the rule; meant for uneven data",
            "f is large: each liar may spoil a bucket",
            "no pass of its own",
            "Karimireddy et al. 2022, algorithm 1",
        ),
        lambda cloud, f, given, rng: presteps.bucketing(cloud, int(given["bucket_size"]), rng),
        (Option("bucket_size", 2, "updates per bucket", 1, 1_000_000, whole=True),),
        points=lambda n, given: presteps.buckets(n, int(given["bucket_size"])),
        seeded=True,
        merges=True,
    ),
    PreStep(
        Card(
            "clipping",
            "Updates longer than a fixed norm are scaled down to it",
            "the norm fits the honest updates",
            "the norm is too large, or so small that training stalls",
            "1 pass for norms",
            "Sun et al. 2019, section 4",
        ),
        lambda cloud, f, given, rng: presteps.clipping(cloud, float(given["clip_to"])),
        (Option("clip_to", None, "largest norm, such as 1.0", 1e-12, 1e12),),
    ),
    PreStep(
        Card(
            "arc",
            "The floor(2f (n - f) / n) longest updates are scaled down to the length of the next",
            "fewer than half lie",
            "liars are no longer than the honest: then it changes little",
            "1 pass for norms",
            "Allouah et al. 2024, adaptive robust clipping",
        ),
        lambda cloud, f, given, rng: presteps.arc(cloud, f),
    ),
    PreStep(
        Card(
            "norm_bound",
            "Updates longer than a multiple of the median length are scaled down to it",
            "fewer than half lie",
            "liars are no longer than the honest",
            "1 pass for norms",
            "Sun et al. 2019, section 4, with a bound that follows the training",
        ),
        lambda cloud, f, given, rng: presteps.norm_bound(cloud, float(given["bound_factor"])),
        (Option("bound_factor", 1.0, "multiple of the median length", 1e-6, 1e6),),
    ),
)

RULES: Mapping[str, Rule] = {rule.card.name: rule for rule in _RULES}
PRE_STEPS: Mapping[str, PreStep] = {step.card.name: step for step in _PRE_STEPS}
