"""The random streams of a run and the draw of its cohorts, in one place: the daemons and the one-process engine use these.

A client's stream does not know the attempt: a round that is tried again trains the same way. Only who is asked changes.
"""

from collections.abc import Sequence

import numpy as np

from edgehold.core.rng import stream


def client_stream(seed: int, run: str, round: int, client: str) -> np.random.Generator:
    """Randomness of one client's work in one round (counted from 1). seed: the one its order carries."""
    return stream(seed, "client", run, round, client)


def new_state_stream(seed: int, run: str, round: int, attempt: int, client: str) -> np.random.Generator:
    """What a client begins anew from, in the middle of a run, when the state it has cannot be gone on with; another one in each
    attempt, and never that of the first contact.
    """
    return stream(seed, "new state", run, round, attempt, client)


def selection_stream(seed: int, run: str, round: int, attempt: int) -> np.random.Generator:
    """Randomness of the draw of a cohort. attempt: counted from 1."""
    return stream(seed, "selection", run, round, attempt)


def select(available: Sequence[str], wanted: int, stream: np.random.Generator) -> tuple[str, ...]:
    """`wanted` of the available clients (all when there are fewer), each equally likely, in ascending order.

    available: in any order, sorted here. The same stream with a larger `wanted` gives a superset.
    """
    ids = sorted(available)
    # The whole permutation is drawn always, so that the choice of k stands inside the choice of k + 1.
    order = stream.permutation(len(ids))
    return tuple(sorted(ids[i] for i in order[: max(wanted, 0)]))
