"""What one HyperFL update gives away: the extractor's gradient, its weights, and the input of a fully connected one.

Every tensor is theta = W z + b, so that dL/db is dL/dtheta itself, and dL/dW its outer product with z. The reader knows what
the server knows: the order (phi, rates) and the update. Embedding and head stay unknown.
Source: derived here from the method's equations; the paper's (Guo et al. 2025) attacks do not use this structure.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from edgehold.attacks.inversion.analytic import first_layer, first_step, input_of
from edgehold.core.hyper import generated
from edgehold.core.vectors import Array, Schema
from edgehold.defenses.hyperfl.state import Order, Update, layout_of


@dataclass(frozen=True, slots=True)
class Reading:
    """gradient: dL/dtheta, (P,); z: (hidden,); theta: the extractor's weights before the step, (P,); all float64.

    A gradient that was clipped is read up to its scale; z, theta and the input do not depend on that.
    """

    gradient: Array
    z: Array
    theta: Array


def read(order: Order, update: Update, schema: Schema) -> Reading:
    """From one update of one local step (`local_epochs` 1, all records in one batch). With more steps the gradient is the sum
    along the path, and z and theta are no longer exact.
    """
    layout, how = layout_of(schema, order.training), order.training
    phi = order.phi.whole()
    slope = first_step(update.delta.whole(), phi, how.learning_rate, how.weight_decay)
    pieces, above, below = [], np.zeros(layout.hidden), 0.0
    for outlet in layout.outlets:
        *weights, (start, shape) = outlet.parts
        own = slope[start : start + prod(shape)]
        pieces.append(own)
        known = own
        if outlet.rank:  # W = A B: dL/dB = (A^T dL/db) z^T, and A is known
            known = _part(phi, weights[0]).astype(np.float64).T @ own
        above += known @ _part(slope, weights[-1])
        below += float(known @ known)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = above / below
    return Reading(np.concatenate(pieces), z, np.concatenate(list(generated(layout, order.phi, z))))


def invert(order: Order, update: Update, schema: Schema) -> Array:
    """The one record behind an update of one local step, (inputs,) float64; `ConfigError` when what is generated does not begin
    with a linear layer with bias. Behind a backbone: what enters that layer.
    """
    weight, bias = first_layer([outlet.tensor for outlet in layout_of(schema, order.training).outlets])
    gradient = read(order, update, schema).gradient
    return input_of(gradient[: weight.size].reshape(weight.shape), gradient[weight.size : weight.size + bias.size])


def _part(flat: Array, place: tuple[int, tuple[int, ...]]) -> Array:
    start, shape = place
    return flat[start : start + prod(shape)].reshape(shape)
