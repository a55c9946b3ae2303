"""Who spoils sums: the chance, for each device, that it is a liar, from which of its groups were void.

A void group accuses all its members a little. Because groups are drawn anew, with former company dealt out over all of them
(`draw`), honest devices clear their names in the next rounds and liars do not.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import prod

PRIOR = 0.02
"""Chance of a device nothing is known of."""
LIES = 0.9
"""Chance with which a liar is taken to break the law in a round; below 1, or one good round would acquit for good."""
LEAST = 1e-6


def judged(chances: Mapping[str, float], void: Iterable[Sequence[str]], good: Iterable[Sequence[str]]) -> dict[str, float]:
    """Chances after a round, by Bayes' rule, members of a group taken as independent of each other.

    void, good: survivors of such groups. Devices without an entry have `PRIOR`.
    """
    found = dict(chances)
    for group in void:
        before = {who: found.get(who, PRIOR) for who in group}
        kept = {who: 1 - LIES * chance for who, chance in before.items()}
        spoilt = max(1 - prod(kept.values()), LEAST)
        for who, chance in before.items():
            others = 1 - prod(keep for other, keep in kept.items() if other != who)
            # It lies, or somebody else does and it is a liar that kept quiet.
            found[who] = _bounded(chance * (LIES + (1 - LIES) * others) / spoilt)
    for group in good:
        for who in group:
            chance = found.get(who, PRIOR)
            found[who] = _bounded(chance * (1 - LIES) / (1 - chance * LIES))
    return found


def companies(void: Sequence[Sequence[str]], former: Mapping[str, int]) -> dict[str, int]:
    """The company of each device for the next draw: a number of its own for every group that was void.

    former: companies before, which last until their members have been in a good group (the caller takes those out).
    """
    first = max(former.values(), default=0) + 1
    return dict(former) | {who: first + at for at, group in enumerate(void) for who in group}


def _bounded(chance: float) -> float:
    return min(max(chance, LEAST), 1 - LEAST)
