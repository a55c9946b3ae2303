"""FedAvg: worked by hand, its law on the wire, its bounds."""

import math
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.config import convert
from edgehold.core.contract import Cohort, Payload, Weighted
from edgehold.core.errors import ConfigError, NotFinite, OutsideLaw, RejectedUpdate, WrongShape
from edgehold.core.rng import stream
from edgehold.core.vectors import Bytes, MemorySpace, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Order, Settings, State, Training, Update
from edgehold.proto.v1.payloads_pb2 import FedAvgTask, FedAvgUpdate, TaskHeader, UpdateHeader

SCHEMA = Schema((Tensor("w", (2,)),))


def vector(*values: float) -> Vector:
    return Vector.of(np.array(values, dtype=np.float32))


def close(settings: Settings, state: State, *updates: tuple[float, tuple[float, ...]]) -> tuple[State, dict[str, float]]:
    server = registry.server_side("fedavg", settings, SCHEMA, 0)
    weighted = [Weighted(f"c{i}", w, Update(vector(*delta), 1)) for i, (w, delta) in enumerate(updates)]
    out: tuple[State, dict[str, float]] = server.close(state, weighted, MemorySpace())
    return out


def test_weighted_step_by_hand() -> None:
    # (1 x (4, 0) + 3 x (0, 8)) / 4 = (1, 6); model (10, 10) -> (11, 16); norms 4 and 8, median 6; step sqrt(37).
    state, facts = close(Settings(), State(vector(10, 10)), (1, (4, 0)), (3, (0, 8)))
    assert state.model.whole().tolist() == [11, 16]
    assert state.velocity is None
    assert facts == {"updates_clipped": 0, "update_norm_median": 6, "step_norm": pytest.approx(math.sqrt(37))}


def test_clip_scales_down_and_counts() -> None:
    # (3, 4) has norm 5: clipped to 2.5 it is (1.5, 2). (0, 1) stays. Mean (0.75, 1.5).
    state, facts = close(Settings(clip_norm=2.5), State(vector(0, 0)), (1, (3, 4)), (1, (0, 1)))
    assert state.model.whole().tolist() == [0.75, 1.5]
    assert facts["updates_clipped"] == 1


def test_server_momentum_by_hand() -> None:
    # beta 0.5, eta 2. Round 1: v = (2, 0), w = (4, 0). Round 2, update (0, 4): v = (1, 4), w = (4 + 2, 8) = (6, 8).
    settings = Settings(server_momentum=0.5, server_learning_rate=2)
    first, _ = close(settings, State(vector(0, 0)), (1, (2, 0)))
    assert first.model.whole().tolist() == [4, 0]
    second, facts = close(settings, first, (1, (0, 4)))
    assert second.model.whole().tolist() == [6, 8]
    assert second.velocity is not None
    assert second.velocity.whole().tolist() == [1, 4]
    assert facts["step_norm"] == pytest.approx(math.hypot(2, 8))


def test_model_stays_finite_whatever_is_admitted() -> None:
    settings = Settings(server_learning_rate=100)
    state = State(vector(3e38, -3e38))
    state, facts = close(settings, state, (1, (1e30, -1e30)), (1, (1e30, -1e30)))
    state, facts = close(settings, state, (1, (3e38, -3e38)))
    assert np.isfinite(state.model.whole()).all()
    assert all(math.isfinite(v) for v in facts.values())


def test_client_sends_difference_and_leaves_the_order_alone() -> None:
    client = registry.client_side("fedavg")
    start = np.array([1.0, -2.0], dtype=np.float32)
    start.flags.writeable = False
    order = Order(Vector.of(start), Training(), 0)
    task = SyntheticTask(2, 0.25, samples=12)
    local, update, facts = client.work(order, client.begin(order, task, stream(0)), task, stream(0))
    assert (local, update.samples, facts) == (None, 12, {})
    assert update.delta.whole().tolist() == [0.25, 0.25]
    with pytest.raises(WrongShape, match="order's model has 3 values"):
        client.work(Order(vector(1, 2, 3), Training(), 0), None, task, stream(0))
    with pytest.raises(ConfigError, match="no training records"):
        client.work(order, None, SyntheticTask(2, 0.25, samples=0), stream(0))
    with pytest.raises(WrongShape, match="keeps none"):
        client.load(b"x")


def test_order_carries_the_plan() -> None:
    how = {"local_epochs": 3, "batch_size": 7, "learning_rate": 0.5, "momentum": 0.25, "weight_decay": 0.125, "proximal": 2.0}
    settings = convert(how, Settings, "test")
    server = registry.server_side("fedavg", settings, SCHEMA, 99)
    order = server.open(server.start(vector(1, 2)), Cohort(1, ("a",)))
    back = registry.codec("fedavg").decode_order(registry.codec("fedavg").encode_order(order), SCHEMA)
    assert back.training == convert(how, Training, "test")
    assert back.seed == 99
    assert back.model.whole().tolist() == [1, 2]


HEADER = UpdateHeader(fedavg=FedAvgUpdate(samples=5)).SerializeToString()


@pytest.mark.parametrize(
    ("header", "body", "error", "says"),
    [
        (HEADER, struct.pack("<3f", 1, 2, 3), WrongShape, "12 bytes; 2 float32"),
        (HEADER, struct.pack("<f", 1), WrongShape, "4 bytes"),
        (HEADER, b"1234567", WrongShape, "7 bytes"),
        (HEADER, struct.pack("<2f", 1, math.nan), NotFinite, "value 1 is nan"),
        (HEADER, struct.pack("<2f", -math.inf, 1), NotFinite, "value 0 is -inf"),
        (HEADER, struct.pack("<2f", 1500, 1500), OutsideLaw, "at most 2000 is admitted"),
        (b"", struct.pack("<2f", 1, 1), WrongShape, "header for None"),
        (UpdateHeader(fedavg=FedAvgUpdate()).SerializeToString(), struct.pack("<2f", 1, 1), OutsideLaw, "0 samples"),
        (UpdateHeader(fedavg=FedAvgUpdate(samples=1 << 41)).SerializeToString(), bytes(8), OutsideLaw, "samples"),
        (HEADER + b"\x7a\x00", bytes(8), WrongShape, "unknown fields"),
        (b"\xff", bytes(8), WrongShape, "do not decode"),
    ],
)
def test_law_of_updates(header: bytes, body: bytes, error: type[RejectedUpdate], says: str) -> None:
    codec = registry.codec("fedavg", Settings(clip_norm=2.0))
    with pytest.raises(error, match=says):
        codec.decode_update(Payload(header, Bytes(body)), SCHEMA)
    assert codec.decode_update(Payload(HEADER, Bytes(struct.pack("<2f", 1200, -1600))), SCHEMA).samples == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"local_epochs": 0},
        {"local_epochs": 1001},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"momentum": 1.0},
        {"momentum": -0.5},
        {"momentum": math.nan},
        {"weight_decay": -1.0},
        {"proximal": 1e9},
        {"seed": 1 << 63},
    ],
)
def test_device_refuses_orders_outside_the_law(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {"local_epochs": 1, "batch_size": 8, "learning_rate": 0.1}
    codec = registry.codec("fedavg")
    header = TaskHeader(fedavg=FedAvgTask(**(good | wrong))).SerializeToString()
    with pytest.raises(OutsideLaw):
        codec.decode_order(Payload(header, Bytes(bytes(8))), SCHEMA)
    sound = TaskHeader(fedavg=FedAvgTask(**good)).SerializeToString()
    assert codec.decode_order(Payload(sound, Bytes(bytes(8))), SCHEMA).training.batch_size == 8
    with pytest.raises(NotFinite):
        codec.decode_order(Payload(sound, Bytes(struct.pack("<2f", math.inf, 0))), SCHEMA)


def test_norm_is_bounded_without_a_clip_too() -> None:
    codec = registry.codec("fedavg", Settings())
    with pytest.raises(OutsideLaw, match="1e\\+30"):
        codec.decode_update(Payload(HEADER, Bytes(struct.pack("<2f", 2e30, 0))), SCHEMA)


def test_settings_refuse_rules_that_cannot_work() -> None:
    Settings(rule="krum", liars=2).check(7)
    with pytest.raises(ConfigError, match="krum cannot withstand 2 liars among 6 updates"):
        Settings(rule="krum", liars=2).check(6)
    with pytest.raises(ConfigError, match='did you mean "median"'):
        Settings(rule="medain").check(6)


def test_close_refuses_too_few_updates() -> None:
    with pytest.raises(ConfigError, match="trimmed_mean cannot withstand 1 liars among 2"):
        close(Settings(rule="trimmed_mean", liars=1), State(vector(0, 0)), (1, (1, 1)), (1, (1, 1)))


def test_each_side_loads_only_its_half() -> None:
    code = (
        "import sys; from edgehold.defenses import registry as r; r.client_side('fedavg'); r.codec('fedavg');"
        "bad = [m for m in sys.modules if m == 'torch' or m.startswith('edgehold.server') or m.endswith('fedavg.server')"
        " or '.rules' in m]; sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
