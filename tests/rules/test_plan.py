"""What a plan may name, and what is refused with what would be allowed."""

from dataclasses import replace

import numpy as np
import pytest

from edgehold.core.config import convert
from edgehold.core.contract import Cohort, Packed, Weighted
from edgehold.core.errors import ConfigError, OutsideLaw, WrongShape
from edgehold.core.rng import stream
from edgehold.core.vectors import MemorySpace, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.client import FedAvgClient
from edgehold.defenses.baselines.fedavg.state import Order, Settings, State, Training, Update
from edgehold.defenses.baselines.rules import PRE_STEPS, RULES, recipe

SCHEMA = Schema((Tensor("w", (2,)),))


@pytest.mark.parametrize(
    ("name", "n", "f", "allowed"),
    [
        ("average", 8, 1, "liars = 0"),
        ("median", 4, 2, "0 to 1"),
        ("trimmed_mean", 4, 2, "at least 5 updates"),
        ("meamed", 6, 3, "at least 7 updates"),
        ("krum", 6, 2, "at least 7 updates"),
        ("krum", 2, 0, "at least 3"),
        ("multi_krum", 6, 2, "at least 7 updates"),
        ("bulyan", 10, 2, "at least 11 updates"),
        ("geometric_median", 4, 2, "at least 5"),
        ("mda", 4, 2, "at least 5"),
        ("caf", 4, 2, "at least 5"),
        ("dnc", 4, 2, "at least 5"),
        ("smea", 4, 2, "at least 5"),
        ("nnm+krum", 6, 2, "at least 7 updates"),
        ("bucketing+krum", 8, 1, r"\(mixed into 4\); allowed: liars = 0, or at least 9 updates"),
        ("bucketing+krum", 4, 0, "at least 5; raise the quorum"),
    ],
)
def test_impossible_numbers_are_refused_with_what_is_possible(name: str, n: int, f: int, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"rule {name.replace('+', '.')}.*{allowed}"):
        recipe(name).check(n, f)
    recipe(name).check(15, 0 if name == "average" else 2)


def test_limits() -> None:
    with pytest.raises(ConfigError, match=r"1.85e\+05 for 10 liars among 20 updates; at most 100000"):
        recipe("smea").rule.limit(20, 10, {})
    with pytest.raises(ConfigError, match="smea compares every subset"):
        recipe("smea").check(50, 10)
    with pytest.raises(ConfigError, match="at most 7 of 9 updates"):
        recipe("multi_krum", {"keep": 8}).check(9, 2)
    recipe("multi_krum", {"keep": 7}).check(9, 2)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("trimed_mean", {}, 'did you mean "trimmed_mean"'),
        ("nmm+krum", {}, 'unknown pre-step .nmm.; did you mean "nnm"'),
        ("krum+nnm", {}, "must come last"),
        ("nnm", {}, 'as in "nnm.trimmed_mean"'),
        ("nnm+nnm+krum", {}, "twice"),
        ("", {}, "unknown rule"),
        ("centred_clipping", {}, "method.rule_options.radius is missing"),
        ("centred_clipping", {"radus": 1.0}, 'unknown key method.rule_options.radus.*did you mean "radius"'),
        ("krum", {"radius": 1.0}, "krum has none"),
        ("centred_clipping", {"radius": 0.0}, "from 1e-12 to 1e.12"),
        ("centred_clipping", {"radius": float("nan")}, "expected a number"),
        ("centred_clipping", {"radius": True}, "expected a number"),
        ("centred_clipping", {"radius": "1"}, "expected a number"),
        ("bucketing+median", {"bucket_size": 2.5}, "expected a whole number"),
        ("monna", {"trusted": 3}, "the id of a client"),
        ("bucketing+monna", {"trusted": "a"}, "buckets have none"),
        ("clipping+median", {}, "clip_to is missing"),
    ],
)
def test_wrong_plans_say_what_is_allowed(name: str, options: dict[str, float | str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        recipe(name, options)


def test_plan_table() -> None:
    table = {"rule": "bucketing+arc+centred_clipping", "liars": 2, "rule_options": {"radius": 2, "bucket_size": 3}}
    settings = convert(table, Settings, "test")
    settings.check(20)
    with pytest.raises(ConfigError, match="cannot withstand 2 liars among 12"):
        settings.check(12)
    assert recipe(settings.rule, settings.rule_options).options == {"radius": 2.0, "iterations": 1, "bucket_size": 3}


def test_every_card_is_full() -> None:
    for card in [rule.card for rule in RULES.values()] + [step.card for step in PRE_STEPS.values()]:
        assert all([card.name, card.summary, card.assumes, card.fails_when, card.cost, card.source])


def closed(settings: Settings, state: State, *deltas: list[float]) -> State:
    server = registry.server_side("fedavg", settings, SCHEMA, 3)
    updates = [Weighted(f"c{i}", 1.0, Update(Vector.of(np.array(d, dtype=np.float32)), 1)) for i, d in enumerate(deltas)]
    out: State = server.close(state, updates, MemorySpace())[0]
    packed = server.pack(out)
    assert server.pack(server.unpack(Packed(packed.blobs, packed.scalars))) == packed
    return out


def test_last_result_travels_in_the_state() -> None:
    # Radius 1: round 1 from 0: (1, 0) -> (1, 0). Round 2 from (1, 0): difference (9, 0) -> (1, 0): combined (2, 0), w = 3.
    settings = Settings(rule="centred_clipping", rule_options={"radius": 1.0})
    start = State(Vector.of(np.zeros(2, dtype=np.float32)))
    one = closed(settings, start, [1, 0], [1, 0])
    two = closed(settings, one, [10, 0], [10, 0])
    assert two.combined is not None
    assert two.combined.whole().tolist() == [2, 0]
    assert two.model.whole().tolist() == [3, 0]
    assert closed(Settings(), start, [1, 0]).combined is None


def test_each_round_draws_its_own_buckets() -> None:
    settings = Settings(rule="bucketing+median", liars=1)
    deltas = [list(row) for row in np.random.default_rng(0).standard_normal((12, 2))]
    states = [State(Vector.of(np.zeros(2, dtype=np.float32)), draws=draws) for draws in range(8)]
    models = {closed(settings, state, *deltas).model.whole().tobytes() for state in states}
    assert len(models) > 3
    assert closed(settings, states[0], *deltas).draws == 1
    again = closed(settings, states[0], *deltas).model.whole().tobytes()
    assert again == closed(settings, states[0], *deltas).model.whole().tobytes()


def test_absent_trusted_client_is_named() -> None:
    settings = Settings(rule="monna", rule_options={"trusted": "clinic"})
    with pytest.raises(ConfigError, match="'clinic', which sent no update"):
        closed(settings, State(Vector.of(np.zeros(2, dtype=np.float32))), [1, 0], [1, 0])


class _Steps:
    """A task whose every training moves the model by the next of some steps."""

    schema, samples = SCHEMA, 4

    def __init__(self, *steps: float) -> None:
        self._steps = iter(steps)

    def train(self, start: np.ndarray, how: object, rng: object) -> np.ndarray:
        return start + np.float32(next(self._steps))


def test_client_momentum_by_hand() -> None:
    # beta 0.5, changes 4 then 8: m = 2, then 0.5 * 2 + 0.5 * 8 = 5. Kept in bytes between rounds, old state untouched.
    half, task = FedAvgClient(), _Steps(4.0, 8.0)
    order = Order(Vector.of(np.zeros(2, dtype=np.float32)), Training(), 0, client_momentum=0.5)
    local = half.begin(order, task, stream(0))  # type: ignore[arg-type]
    local, update, _ = half.work(order, local, task, stream(0))  # type: ignore[arg-type]
    assert update.delta.whole().tolist() == [2, 2]
    kept = half.dump(local)
    _, update, _ = half.work(order, half.load(kept), task, stream(0))  # type: ignore[arg-type]
    assert update.delta.whole().tolist() == [5, 5]
    assert half.dump(local) == kept
    with pytest.raises(WrongShape, match="momentum of 3 values"):
        half.work(order, np.zeros(3, dtype=np.float32), _Steps(1.0), stream(0))  # type: ignore[arg-type]
    with pytest.raises(WrongShape, match="or float32 momentum"):
        half.load(b"12345")
    settings = Settings(client_momentum=0.5)
    server = registry.server_side("fedavg", settings, SCHEMA, 0)
    assert server.open(State(order.model), Cohort(1, ("a",))).client_momentum == 0.5
    settings.check(3)
    codec = registry.codec("fedavg", None)
    sent = codec.encode_order(replace(order, training=Training()))
    assert codec.decode_order(sent, SCHEMA).client_momentum == 0.5
    few = codec.encode_order(replace(order, training=Training(local_steps=3)))
    assert codec.decode_order(few, SCHEMA).training.local_steps == 3
    for bad in (-0.1, 1.0, float("nan")):
        with pytest.raises(OutsideLaw, match="client momentum"):
            codec.decode_order(codec.encode_order(replace(order, client_momentum=bad)), SCHEMA)
