"""FedAvg on the device: train from the global model, send the change."""

import numpy as np

from edgehold.core.contract import Facts
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.task import LocalTraining, Task
from edgehold.core.vectors import FloatArray, Vector
from edgehold.defenses.baselines.fedavg.state import Order, Update


class FedAvgClient:
    """Keeps nothing between rounds, unless the order asks for momentum: then the running mean of its changes."""

    def begin(self, order: Order, task: Task, rng: np.random.Generator) -> FloatArray | None:
        """No local state before the first change."""
        return None

    def work(
        self, order: Order, local: FloatArray | None, task: Task, rng: np.random.Generator
    ) -> tuple[FloatArray | None, Update, Facts]:
        """Local training, then local minus global model; `ConfigError` on a device without training records.

        With client momentum beta, what is sent and kept is m' = beta m + (1 - beta) change, m = 0 at first contact.
        Source: Karimireddy et al. 2021, section 5: honest updates vary less from round to round, liars have less to hide in.
        """
        if order.model.size != task.schema.size:
            raise WrongShape(f"the order's model has {order.model.size} values; this device's has {task.schema.size}")
        if task.samples < 1:
            raise ConfigError("this device has no training records; give its task some or take it off the run")
        start = order.model.whole()
        how = order.training
        trained = task.train(
            start,
            LocalTraining(
                epochs=how.local_epochs,
                batch_size=how.batch_size,
                learning_rate=how.learning_rate,
                momentum=how.momentum,
                weight_decay=how.weight_decay,
                proximal=how.proximal,
                steps=how.local_steps,
            ),
            rng,
        )
        # Training that blew up gives infinities here; the law refuses them at the other end, where it is counted.
        with np.errstate(over="ignore", invalid="ignore"):
            delta = np.subtract(trained, start, dtype=np.float32)
            beta = order.client_momentum
            if beta == 0.0:
                return None, Update(Vector.of(delta), task.samples), {}
            if local is not None and len(local) != len(delta):
                raise WrongShape(f"momentum of {len(local)} values; the model has {len(delta)}")
            mean = delta * np.float64(1.0 - beta)
            if local is not None:
                mean += np.float64(beta) * local
            kept = mean.astype(np.float32)
        return kept, Update(Vector.of(kept), task.samples), {}

    def dump(self, local: FloatArray | None) -> bytes:
        """Nothing, or little-endian float32."""
        return b"" if local is None else local.astype("<f4").tobytes()

    def load(self, data: bytes) -> FloatArray | None:
        """Inverse of `dump`."""
        if not data:
            return None
        if len(data) % 4:
            raise WrongShape(f"local state of {len(data)} bytes; FedAvg keeps none, or float32 momentum")
        return np.frombuffer(data, dtype="<f4")


def client_side() -> FedAvgClient:
    """The device half."""
    return FedAvgClient()
