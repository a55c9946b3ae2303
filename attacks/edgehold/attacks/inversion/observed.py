"""What every inversion starts from and what it gives back: one client's round as its server may record it, and images.

Nothing here knows more than the server of a real run: the order it gave, the update it admitted, the plan's settings.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgehold.attacks.inversion import hypernetwork
from edgehold.attacks.inversion.analytic import first_step
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array, Schema
from edgehold.defenses.hyperfl.state import layout_of

READABLE = ("fedavg", "dp_fedavg", "dp_sgd", "dp_ef_sgd", "hyperfl")
"""Methods whose updates have a gradient in them."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One client's round.

    schema: of what was trained (HyperFL: the extractor alone); start: (size,) its weights before; change: (size,) float64, what
    they moved by; learning_rate, weight_decay, momentum: of local SGD; epochs, batch: how it went through the records;
    records: how many the client claims, 0 where it does not say; guard: what stands between gradient and eye, "" for nothing.
    whole: whether `schema` is the whole model, so that its loss can be computed.
    """

    schema: Schema
    start: Array
    change: Array
    learning_rate: float
    epochs: int = 1
    batch: int = 1 << 30
    weight_decay: float = 0.0
    momentum: float = 0.0
    records: int = 0
    guard: str = ""
    whole: bool = True

    @property
    def steps(self) -> int:
        """Local steps of SGD in the update, as far as the claimed records tell."""
        return self.epochs * max(1, -(-self.records // self.batch))

    def gradient(self) -> Array:
        """(size,) float64: the gradient behind one local step; `ConfigError` where there were several."""
        if self.steps > 1:
            raise ConfigError(
                f"the update holds {self.steps} local steps, not one gradient; use an attack that plays them (cosine), "
                "or record a plan with local_epochs = 1 and batch_size of all records"
            )
        return first_step(self.change, self.start, self.learning_rate, self.weight_decay)

    def tensors(self) -> list[Array]:
        """The gradient tensor by tensor."""
        return self.cut(self.gradient())

    def weights(self) -> list[Array]:
        """The weights before, tensor by tensor."""
        return self.cut(np.asarray(self.start, np.float64))

    def cut(self, flat: Array) -> list[Array]:
        """A flat vector of the schema, tensor by tensor."""
        at, found = 0, []
        for tensor in self.schema.tensors:
            found.append(flat[at : at + tensor.size].reshape(tensor.shape))
            at += tensor.size
        return found


@dataclass(frozen=True, slots=True)
class Aim:
    """What an attack is told beside what it observes.

    shape: of one record; records: how many to look for; classes; box: smallest and largest value of a record's numbers; public:
    (any, *shape) records of the same kind that the server holds; labels: where they are known already; model: the server's own
    copy of the task (`TorchTask`), needed by attacks that compute gradients. tell: (share done, words) while it works.
    """

    shape: tuple[int, ...]
    records: int
    classes: int = 0
    box: tuple[float, float] = (0.0, 1.0)
    public: Array | None = None
    labels: Array | None = None
    model: Any = None
    restarts: int = 3
    iterations: int = 0
    total_variation: float | None = None
    seed: int = 0
    tell: Callable[[float, str], None] = field(default=lambda share, said: None)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """images: (found, *shape) float64; labels: (found,) or None; objectives: what each restart reached, the attacker's own
    measure, by which the best was kept; seconds: of this process; note: what the attack itself says about its result.
    """

    images: Array
    labels: Array | None
    objectives: tuple[float, ...]
    seconds: float
    note: str = ""


def observe(method: str, order: Any, update: Any, schema: Schema) -> Observed:
    """A method's order and admitted update in this form; `ConfigError` for a method whose updates hold no gradient."""
    if method not in READABLE:
        raise ConfigError(f"updates of {method!r} hold no gradient (votes, signs); methods to invert: {', '.join(READABLE)}")
    how = order.training
    if method == "hyperfl":
        reading = hypernetwork.read(order, update, schema)
        inner = Schema(tuple(outlet.tensor for outlet in layout_of(schema, how).outlets))
        return Observed(
            inner, reading.theta, -how.learning_rate * reading.gradient, how.learning_rate, how.local_epochs, how.batch_size,
            records=0 if how.noisy else update.samples, guard="noise" if how.noisy else "", whole=False,
        )  # fmt: skip
    start, change = order.model.whole(), update.delta.whole().astype(np.float64)
    if method in ("dp_sgd", "dp_ef_sgd"):
        # Sums of clipped gradients over a fixed batch size, with noise: nothing tells how many records there were.
        return Observed(schema, start, change, how.learning_rate, how.steps_per_round, guard="noise")
    guard = "a running mean of the client's changes" if getattr(order, "client_momentum", 0.0) else ""
    epochs, records = how.local_epochs, update.samples
    if how.local_steps:
        # At least one step an epoch; the only step there is saw one batch.
        epochs = min(epochs, how.local_steps)
        records = min(records, how.batch_size) if how.local_steps == 1 else records
    return Observed(
        schema, start, change, how.learning_rate, epochs, how.batch_size, how.weight_decay, how.momentum, records, guard
    )
