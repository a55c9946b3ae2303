"""Rules that choose updates by their distances to each other. Each returns weights over the points, (n,), summing to 1."""

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array, Sink
from edgehold.defenses.baselines.rules.choice import equal_weights, first_smallest, smallest
from edgehold.defenses.baselines.rules.cloud import Cloud
from edgehold.defenses.baselines.rules.coordinatewise import mean_around_median


def krum_scores(distances: Array, f: int) -> Array:
    """Sum of squared distances to the n - f - 2 nearest others (at least 1), (n,). Source: Blanchard et al. 2017, section 4."""
    n = len(distances)
    others = np.sort(distances + np.diag(np.full(n, np.inf)), axis=1)
    return np.asarray(others[:, : max(1, n - f - 2)].sum(axis=1)) if n > 1 else np.zeros(n)


def krum(cloud: Cloud, f: int) -> Array:
    """The one point of smallest score."""
    return equal_weights(cloud.n, np.array([first_smallest(krum_scores(cloud.distances, f))]))


def multi_krum(cloud: Cloud, f: int, keep: int) -> Array:
    """The mean of the `keep` points of smallest score; 0: n - f."""
    return equal_weights(cloud.n, smallest(krum_scores(cloud.distances, f), keep or cloud.n - f))


def bulyan_selection(distances: Array, f: int) -> Array:
    """Indices of the n - 2f points that Krum takes one after the other, each among those left. El Mhamdi et al. 2018."""
    left = np.arange(len(distances))
    taken = []
    for _ in range(len(distances) - 2 * f):
        best = first_smallest(krum_scores(distances[np.ix_(left, left)], f))
        taken.append(int(left[best]))
        left = np.delete(left, best)
    return np.sort(np.array(taken))


def bulyan(cloud: Cloud, f: int, sink: Sink) -> None:
    """Of the selected points, per coordinate the mean of the (their number - 2f) values nearest the median."""
    chosen = bulyan_selection(cloud.distances, f)
    mean_around_median(cloud.rows(chosen), len(chosen) - 2 * f, sink)


def monna(cloud: Cloud, f: int, trusted: str) -> Array:
    """The mean of the n - f points nearest that of a trusted client, itself among them. Farhadkhani et al. 2023."""
    if trusted not in cloud.clients:
        raise ConfigError(
            f"rule monna trusts client {trusted!r}, which sent no update this round", field="method.rule_options.trusted"
        )
    return equal_weights(cloud.n, smallest(cloud.distances[list(cloud.clients).index(trusted)], cloud.n - f))
