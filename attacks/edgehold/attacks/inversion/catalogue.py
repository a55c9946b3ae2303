"""Every inversion by name, in one form: what the server observed and the attacker's aim in, a reconstruction out."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from edgehold.attacks.inversion import analytic, bins, sparse
from edgehold.attacks.inversion.observed import Aim, Observed, Reconstruction
from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import Array

Invert = Callable[[Observed, Aim], Reconstruction]


@dataclass(frozen=True, slots=True)
class Attack:
    """name: as on the command line; summary: one line; needs: what must hold for it to win."""

    name: str
    summary: str
    needs: str
    invert: Invert


def find(name: str) -> Attack:
    """The attack of that name; `ConfigError` with the nearest one."""
    if name not in ATTACKS:
        raise ConfigError(f"unknown attack {name!r}{suggest(name, list(ATTACKS))}", field="attack")
    return ATTACKS[name]


def _first(observed: Observed) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Gradient, and weights, of a fully connected first layer."""
    analytic.first_layer(observed.schema.tensors)
    slopes, weights = observed.tensors(), observed.weights()
    return (slopes[0], slopes[1]), (weights[0], weights[1])


def _closed_form(observed: Observed, aim: Aim) -> Reconstruction:
    began = time.process_time()
    (weight, bias), _ = _first(observed)
    x = analytic.input_of(weight, bias)
    note = "several records: their weighted mean" if aim.records > 1 else ""
    return _done(x[None], (), began, observed, aim, note)


def _sparse(observed: Observed, aim: Aim) -> Reconstruction:
    began = time.process_time()
    slopes, layer = _first(observed)
    found = sparse.invert(slopes, layer, aim.records, stream(aim.seed, "inversion", "sparse"), _flat(aim.public))
    note = f"{found.exact} of {aim.records} records explain themselves"
    return _done(found.inputs, (1.0 - found.exact / aim.records,), began, observed, aim, note)


def _bins(observed: Observed, aim: Aim) -> Reconstruction:
    began = time.process_time()
    (weight, bias), (_, offsets) = _first(observed)
    sent = bins.imprinted(observed.start, observed.schema)
    note = "" if sent else "the server sent no imprint: its first layer is an ordinary one"
    return _done(bins.read(weight, bias, -offsets, aim.records), (), began, observed, aim, note)


def _matching(name: str) -> Invert:
    def invert(observed: Observed, aim: Aim) -> Reconstruction:
        found: Invert = getattr(import_module("edgehold.attacks.inversion.torch_matching"), name)
        return found(observed, aim)

    return invert


def _flat(public: Array | None) -> Array | None:
    return None if public is None else np.asarray(public).reshape(len(public), -1)


def _done(x: Array, objectives: tuple[float, ...], began: float, observed: Observed, aim: Aim, note: str) -> Reconstruction:
    if x.shape[1] != int(np.prod(aim.shape)):
        raise ConfigError(f"the first layer takes {x.shape[1]} numbers; records of shape {aim.shape} have {np.prod(aim.shape)}")
    told = "; ".join(
        part for part in (note, f"{observed.guard} in the update: expected to fail" * bool(observed.guard)) if part
    )
    images = x.reshape(-1, *aim.shape)
    if len(aim.shape) == 3:
        images = np.clip(np.nan_to_num(images, nan=float(np.mean(aim.box))), *aim.box)  # what every attacker knows of pixels
    return Reconstruction(images, None, objectives, time.process_time() - began, told)


ATTACKS = {
    one.name: one
    for one in (
        Attack("closed-form", "the input of a fully connected first layer, by division", "one record", _closed_form),
        Attack("sparse", "every record of a batch, from the zeros a ReLU leaves in the gradient",
               "fully connected first layer with ReLU, one step, more units than about batch squared", _sparse),
        Attack("bins", "a malicious server's imprint sorts records into bins", "fl-eval simulate --imprint; one step",
               _bins),
        Attack("dlg", "pixels and labels whose gradient is the observed one (L-BFGS)", "smooth activations, one step",
               _matching("dlg")),
        Attack("idlg", "as dlg, with labels read off the last layer first", "smooth activations, one step", _matching("idlg")),
        Attack("cosine", "inverting gradients: direction of the gradient and total variation (signed Adam)",
               "any model; several steps over full batches are played", _matching("cosine")),
    )
}  # fmt: skip
