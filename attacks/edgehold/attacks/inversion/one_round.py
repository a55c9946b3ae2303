"""One round of one device as its server observes it, played through the method's own halves: for tests and benchmarks."""

from typing import Any

from edgehold.attacks.inversion.observed import Observed, observe
from edgehold.core.contract import Cohort
from edgehold.core.rng import stream
from edgehold.core.vectors import Array, Vector
from edgehold.defenses import registry


def seen(task: Any, seed: int, method: str = "fedavg", start: Array | None = None, **settings: Any) -> Observed:
    """start: weights that the server sends, the task's own where there are none; settings: of the method."""
    how = registry.method(method).settings(**settings)
    server = registry.server_side(method, how, task.schema, seed)
    state = server.start(Vector.of(task.initial(seed) if start is None else start))
    order = server.open(state, Cohort(1, ("c",)))
    client, rng = registry.client_side(method), stream(seed, "client")
    local = client.begin(order, task, rng)
    return observe(method, order, client.work(order, local, task, rng)[1], task.schema)


def private(task: Any, seed: int, records: int, epsilon: float = 8.0, start: Array | None = None) -> Observed:
    """The same through dp_sgd at that epsilon and delta 1e-5 for the round, clip 1, one step over all records. The noise is the
    operating system's: never the same twice.
    """
    from edgehold.defenses.dp_ef_sgd.accounts import noise_for

    plain = registry.method("dp_sgd").settings(sampling="bins", bins=1, batch_size=float(records)).training()
    how = noise_for(plain, task.schema.size, 1, epsilon, 1e-5)
    return seen(task, seed, "dp_sgd", start, **{name: getattr(how, name) for name in type(how).__struct_fields__})
