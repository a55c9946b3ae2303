"""Blocks of columns on the machines of a Ray cluster: the same work on the same spans, taken in the same order.

A node gets the work once, with the paths and keys of spooled updates rather than their bytes: it reads its blocks itself. A
block whose node is lost is worked out here. Every block has the same bits wherever it is worked out, and blocks are put
together in order: a cluster changes no digest.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgehold.core.errors import ConfigError, FlError
from edgehold.core.vectors import Array
from edgehold.defenses.baselines.rules.ordering import Span, elsewhere

Work = Callable[[Span], Array]

_ONE_THREAD = {"env_vars": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}}
_RETRIES = 2
_kept: dict[str, Work] = {}


def _block(name: str, work: Sequence[Any], span: Span) -> Array:
    """On a node: one block. work: a reference in a sequence, which Ray does not resolve by itself for every block."""
    if name not in _kept:
        import ray

        _kept.clear()  # and with it the files of the work before
        _kept[name] = ray.get(work[0])
    return _kept[name](span)


def in_order_on_ray(spans: Sequence[Span], work: Work, write: Callable[[Array], None]) -> None:
    """As `in_order`, on every processor of the cluster that this process is connected to."""
    import ray

    shared = ray.put(work)
    name = shared.hex()
    remote = ray.remote(num_cpus=1, max_retries=_RETRIES, runtime_env=_ONE_THREAD)(_block)
    ahead = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # some wait on every node, few results wait here
    waiting: deque[tuple[Span, Any]] = deque()

    def take() -> None:
        span, one = waiting.popleft()
        try:
            done = ray.get(one)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, FlError):
                raise cause from None
            done = work(span)  # the process or its node is gone
        write(done)

    for span in spans:
        waiting.append((span, remote.remote(name, [shared], span)))
        if len(waiting) > ahead:
            take()
    while waiting:
        take()


@contextlib.contextmanager
def on_cluster(address: str) -> Iterator[None]:
    """Inside, the rules of this thread spread their blocks over the Ray cluster at `address`; "": over the cores here.

    "local" makes a cluster on this machine. The connection stays for the next time. `ConfigError` when there is no cluster.
    """
    if not address:
        yield
        return
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError("blocks on a Ray cluster need Ray: pip install 'edgehold[ray]'", field="aggregation.ray") from None
    if not ray.is_initialized():
        try:
            ray.init(address=None if address == "local" else address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray raises bare ones, too, where its processes do not come up in time
            raise ConfigError(f"no Ray cluster answers at {address!r}: {error}", field="aggregation.ray") from None
    with elsewhere(in_order_on_ray):
        yield
