"""Secrets out of shares, each checked against what its owner advertised; who gave wrong shares is told."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import chain, combinations, islice

from edgehold.core.masks import shamir

_MOST_LEFT_OUT = 2
"""Holders of wrong shares that are found together."""
_MOST_TRIES = 2200


def recovered(shares: Mapping[int, int], threshold: int, right: Callable[[bytes], bool], suspects: set[int]) -> bytes | None:
    """The secret, or None where no shares but up to two wrong ones give one that is `right`.

    shares: by place, at least `threshold`. suspects: places known for wrong shares, which are asked last; found ones are added.
    """
    places = sorted(shares, key=lambda place: (place in suspects, place))
    left_out = chain.from_iterable(combinations(places[: threshold + 2], size) for size in range(_MOST_LEFT_OUT + 1))
    for out in islice(left_out, _MOST_TRIES):
        chosen = tuple(place for place in places if place not in out)[:threshold]
        if len(chosen) < threshold:
            continue
        found = shamir.secret_of(_at(shares, chosen, 0))
        if found is not None and right(found):
            # The rest is compared with the polynomial only where something was wrong, so that the honest case stays cheap.
            if out or suspects:
                suspects.update(
                    place for place in places if place not in chosen and _at(shares, chosen, place) != shares[place]
                )
            return found
    return None


def _at(shares: Mapping[int, int], chosen: tuple[int, ...], place: int) -> int:
    return shamir.value_at({one: shares[one] for one in chosen}, _weights(chosen, place))


@lru_cache(maxsize=4096)
def _weights(chosen: tuple[int, ...], place: int) -> list[int]:
    return shamir.weights(chosen, place)
