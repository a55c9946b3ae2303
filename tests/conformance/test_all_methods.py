"""Every registered method keeps the contract; and the checks notice methods that do not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import fixed_noise

from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.conformance import ConformanceError, Halves, check, check_masked
from edgehold.core.contract import Payload
from edgehold.core.errors import ConfigError
from edgehold.core.plan import MasksTable
from edgehold.core.task import Task
from edgehold.core.vectors import Bytes, Schema, Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.rules import PRE_STEPS as PRE_STEP_NAMES
from edgehold.defenses.baselines.rules import RULES

TASKS = [SyntheticTask(7, step, samples) for step, samples in ((0.5, 3), (-0.25, 1), (1.0, 2), (0.125, 9), (0.375, 1))]
SCHEMA = TASKS[0].schema


PRIVATE = ("dp_ef_sgd", "dp_sgd")
"""Their noise comes from the operating system and never twice: checked with draws that repeat."""


def tasks_for(name: str) -> Sequence[Task]:
    """Five small tasks that the method can work with."""
    if name == "bristle":  # a head on frozen features
        from edgehold.client.data import frozen

        return [frozen.make_task(device_index=i, devices=5, held_per_class=3, width=12) for i in range(5)]
    if name in ("frl", "hidenseek"):  # they train scores of a PyTorch model without biases
        from edgehold.attacks.eval.data import make_task

        net = {"hidden": [7], "bias": False}
        return [make_task("digits", i, 5, limit=9, model="mlp", net=net) for i in range(5)]
    if name == "floral":  # it weighs public features of records
        from edgehold.client.data.kernel import make_task as kernel

        return [kernel(device_index=i, devices=5, limit=9) for i in range(5)]
    if name in ("hyperfl", *PRIVATE):  # they need a PyTorch model
        from edgehold.attacks.eval.data import make_task

        return [make_task("digits", i, 5, limit=9, model="mlp", net={"hidden": [7]}) for i in range(5)]
    if name == "noise_robust_admm":  # it looks at records, not at gradients
        from edgehold.client.data.linear import synthetic

        return [synthetic(i, length=12) for i in range(5)]
    if name == "fedpca":  # it looks at records, not at gradients
        from tests.support.normal_records import normal_records

        return [normal_records(i) for i in range(5)]
    return TASKS


def client_half(name: str) -> Any:
    """The device half; where it draws from the operating system, with a draw that repeats."""
    if name == "hyperfl":
        from edgehold.defenses.hyperfl.client import HyperFLClient

        return HyperFLClient(draw=lambda: b"conformance")
    return fixed_noise.half() if name in PRIVATE else registry.client_side(name)


def server_half(name: str, settings: Any, schema: Schema) -> Any:
    """The server half; one that adds noise with noise that repeats."""
    if name == "dp_fedavg":
        from edgehold.defenses.baselines.dp_fedavg.server import DpFedAvgServer

        return DpFedAvgServer(settings, schema, 1, fixed_noise.FixedNoise(1))
    return registry.server_side(name, settings, schema, 1)


def halves(name: str, settings: Any, schema: Schema = SCHEMA) -> Halves:
    return Halves(
        lambda: client_half(name),
        lambda: server_half(name, settings, schema),
        lambda: registry.codec(name, settings),
        lambda task, seed: registry.first_weights(name, settings, task, seed),
    )


@pytest.mark.parametrize("name", registry.names())
def test_method_conforms_with_its_defaults(name: str) -> None:
    tasks = tasks_for(name)
    check(halves(name, registry.method(name).settings(), tasks[0].schema), tasks, tasks[0].schema)


SUMMED = [name for name in registry.names() if not registry.method(name).needs(None).individual_updates]


def test_which_methods_can_be_summed() -> None:
    assert SUMMED == ["dp_ef_sgd", "dp_sgd", "fedavg", "floral", "frl", "hidenseek", "hyperfl"]


@pytest.mark.parametrize("name", SUMMED)
def test_sums_under_masks_conform(name: str) -> None:
    tasks, settings = tasks_for(name), registry.method(name).settings()
    wish = MasksTable() if name in ("frl", "hidenseek") else MasksTable(clip=10.0)
    schema = tasks[0].schema
    check_masked(halves(name, settings, schema), registry.masked(name), settings, wish, tasks, schema)


@pytest.mark.parametrize("form", ["rerce", "continual", "dual"])
def test_every_form_of_admm_conforms(form: str) -> None:
    tasks = tasks_for("noise_robust_admm")
    settings = registry.method("noise_robust_admm").settings(form=form, noise_up=0.1, noise_down=0.1, wire="float16")
    check(halves("noise_robust_admm", settings, tasks[0].schema), tasks, tasks[0].schema)


@pytest.mark.parametrize("mode", ["fedpg", "fedpg_paper", "fedpe"])
@pytest.mark.parametrize("phase", ["subspace", "threshold"])
def test_fedpca_conforms_in_its_later_phases(mode: str, phase: str) -> None:
    tasks = tasks_for("fedpca")
    how = {"standardise_rounds": 0, "subspace_rounds": 5 if phase == "subspace" else 0}
    settings = registry.method("fedpca").settings(mode=mode, **how)
    check(halves("fedpca", settings, tasks[0].schema), tasks, tasks[0].schema)


OPTIONS: dict[str, dict[str, object]] = {
    "centred_clipping": {"radius": 1.0},
    "clipping": {"clip_to": 1.0},
    "sign_majority": {"step": 0.1},
}
# Renamed clients fall into other buckets and monna trusts a name, both on purpose; bulyan needs seven updates for one liar.
PLAIN = sorted(RULES.keys() - {"monna", "bulyan"})
MIXED = [f"{step}+trimmed_mean" for step in sorted(PRE_STEP_NAMES.keys() - {"bucketing"})]


@pytest.mark.parametrize("rule", [*PLAIN, *MIXED])
def test_fedavg_conforms_with_every_rule(rule: str) -> None:
    options = {key: value for part in rule.split("+") for key, value in OPTIONS.get(part, {}).items()}
    liars = 0 if rule == "average" else 1
    settings = registry.method("fedavg").settings(
        rule=rule, rule_options=options, liars=liars, server_momentum=0.5, clip_norm=1.0, client_momentum=0.5
    )
    check(halves("fedavg", settings), TASKS, SCHEMA)


@pytest.mark.parametrize("name", registry.names())
def test_method_has_record_card_and_both_halves(name: str) -> None:
    method = registry.method(name)
    folder = Path(__import__("importlib").import_module(method.package).__path__[0])
    assert method.name == name
    assert {p.name for p in folder.iterdir()} >= {"state.py", "client.py", "server.py", "codec.py", "README.md"}
    # Methods that share a folder share what travels.
    assert registry.codec(name).kind.startswith(f"{method.package.rpartition('.')[2]}/")


@pytest.mark.parametrize("name", registry.names())
def test_a_half_says_what_it_costs_exactly_where_the_record_says_that_it_adds_noise(name: str) -> None:
    """A device charges by the record's word: a half that adds noise unknown to it would release for nothing."""
    method = registry.method(name)
    assert hasattr(registry.client_side(name), "charges") == method.needs(None).charges
    side = registry.server_side(name, method.settings(), tasks_for(name)[0].schema, 1)
    assert hasattr(side, "charges") == method.central


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match='did you mean "fedavg"'):
        registry.method("fedavgg")


# Planted defects: each must be caught, and under its own name.


@dataclass
class Broken:
    """Passes everything on to a real half except what a test replaces."""

    inner: Any
    changed: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.changed.get(name) or getattr(self.inner, name)


def broken(half: str, **changed: Any) -> Halves:
    good = halves("fedavg", registry.method("fedavg").settings())
    make = getattr(good, half)

    def spoiled() -> Any:
        inner = make()
        return Broken(inner, {name: (lambda *args, f=f: f(inner, *args)) for name, f in changed.items()})

    changed_half: dict[str, Any] = {half: spoiled}
    return replace(good, **changed_half)


def writes_to_order(inner: Any, order: Any, local: Any, task: Any, rng: Any) -> Any:
    shared = order.model.read(0, 1)
    if shared.flags.writeable:
        shared[0] += 1
    return inner.work(order, local, task, rng)


def unseeded(inner: Any, order: Any, local: Any, task: Any, rng: Any) -> Any:
    local, update, facts = inner.work(order, local, task, rng)
    noise = np.random.default_rng().standard_normal(update.delta.size).astype(np.float32)
    return local, replace(update, delta=Vector.of(update.delta.whole() + noise)), facts


def first_only(inner: Any, state: Any, updates: Any, space: Any) -> Any:
    return inner.close(state, updates[:1], space)


def loses_model(inner: Any, packed: Any) -> Any:
    state = inner.unpack(packed)
    return replace(state, model=Vector.of(np.zeros(state.model.size, np.float32)))


def pads(inner: Any, payload: Payload, schema: Any) -> Any:
    body = bytes(payload.body.read(0, payload.body.size))[: 4 * schema.size].ljust(4 * schema.size, b"\0")
    return inner.decode_update(Payload(payload.header, Bytes(body)), schema)


@pytest.mark.parametrize(
    ("defect", "law"),
    [
        (broken("client", work=writes_to_order), "inputs unchanged"),
        (broken("client", work=unseeded), "same seed"),
        (broken("client", load=lambda inner, data: 1, dump=lambda inner, local: bytes([local or 0])), "local round trip"),
        (broken("server", close=first_only), "client order"),
        (broken("server", unpack=loses_model), "state round trip"),
        (broken("codec", decode_update=pads), "decode"),
        (broken("codec", body_bytes=lambda inner, schema: (0, 4)), "body_bytes"),
    ],
)
def test_planted_defects_are_caught(defect: Halves, law: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check(defect, TASKS, SCHEMA)
    assert caught.value.law == law


# The same for sums under masks.


@dataclass
class BentForm:
    """A form that differs from FRL's in what a test says."""

    inner: Any
    bend: str
    entries: int = 0
    largest: int = 0

    def __post_init__(self) -> None:
        self.entries, self.largest = self.inner.entries + (self.bend == "entries"), self.inner.largest

    def vector(self, update: Any) -> Any:
        for block in self.inner.vector(update):
            yield block + {"above": 1, "below": -1}.get(self.bend, 0)

    def law(self, sums: Any, survivors: int) -> None:
        if self.bend == "lawless":
            return
        self.inner.law(sums, survivors + (self.bend == "harsh" and survivors > 2))


@dataclass
class BentMasked:
    bend: str
    true: Any = registry.masked("frl")

    def entries(self, settings: Any, schema: Schema) -> int:
        return int(self.true.entries(settings, schema))

    def largest(self, settings: Any, schema: Schema) -> int:
        return int(self.true.largest(settings, schema))

    def form(self, schema: Schema, terms: Any) -> Any:
        if self.bend == "blind":
            terms = replace(terms, entries=self.entries(None, schema))
        return BentForm(self.true.form(schema, terms), self.bend)


@pytest.mark.parametrize(
    ("bend", "law"),
    [
        ("entries", "form"), ("above", "vector"), ("below", "vector"), ("lawless", "law"), ("harsh", "law"),
        ("blind", "decode"),
    ],
)  # fmt: skip
def test_planted_defects_of_forms_are_caught(bend: str, law: str) -> None:
    tasks, settings = tasks_for("frl"), registry.method("frl").settings()
    with pytest.raises(ConformanceError) as caught:
        check_masked(halves("frl", settings, tasks[0].schema), BentMasked(bend), settings, MasksTable(), tasks, tasks[0].schema)
    assert caught.value.law == law


def half_of_it(inner: Any, state: Any, groups: Any, terms: Any, blend: Any, space: Any) -> Any:
    halved = [replace(one, residues=one.residues // 2) for one in groups]
    return inner.fold(state, halved, terms, blend, space)


def averages(inner: Any, state: Any, groups: Any, terms: Any, blend: Any, space: Any) -> Any:
    return inner.fold(state, groups[-1:], terms, blend, space)


@pytest.mark.parametrize("fold", [half_of_it, averages])
def test_planted_defects_of_folds_are_caught(fold: Any) -> None:
    settings = registry.method("fedavg").settings()
    with pytest.raises(ConformanceError) as caught:
        check_masked(broken("server", fold=fold), registry.masked("fedavg"), settings, MasksTable(clip=10.0), TASKS, SCHEMA)
    assert caught.value.law == "fold"
