"""Bristle: its worked values, its invariants, its law on the wire, one word for all, and what bad records bring."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from edgehold.client.data import frozen
from edgehold.core.contract import Cohort, Payload, Weighted
from edgehold.core.errors import ConfigError, EquivocationError, NotFinite, OutsideLaw, RejectedUpdate, Stale, WrongShape
from edgehold.core.facts import FACTS
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.tables import Records, TableTask
from edgehold.core.vectors import Array, Bytes, MemorySpace, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.bristle import controls, listing
from edgehold.defenses.bristle.codec import BristleCodec, payload_digest
from edgehold.defenses.bristle.integrate import Trust, centred, f1_per_class, integrate, mix, score, trust, weight
from edgehold.defenses.bristle.prioritise import choose, shares
from edgehold.defenses.bristle.sketch import sketch
from edgehold.defenses.bristle.state import SKETCH, Local, Order, Settings, State, Training, Update
from edgehold.server import engine

FEATURES, CLASSES = 6, 5
SCHEMA = Schema((Tensor("head", (FEATURES, CLASSES)),))
FAMILIAR = np.array([0, 2, 3])
CODEC = BristleCodec()


def records(per_class: int = 4, seed: int = 0, classes: Sequence[int] = (0, 2, 3)) -> Records:
    """Records whose class shows in a feature of its own, under noise."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.array(classes, dtype=np.int64), per_class)
    x = rng.random((len(y), FEATURES)).astype(np.float32)
    x[np.arange(len(y)), y] += 1
    return Records(x, y)


def task(train: Records | None = None, held: Records | None = None) -> TableTask:
    train = records(2, 1) if train is None else train
    held = records(10, 2) if held is None else held
    return TableTask(SCHEMA, train, None, lambda seed: np.zeros(SCHEMA.size, np.float32), frozen.accuracy, held)


def heads(count: int, seed: int = 0) -> Array:
    """Heads that do well in different degrees: the identity and noise."""
    rng = np.random.default_rng(seed)
    return np.array([np.eye(FEATURES, CLASSES) + 0.4 * rng.standard_normal((FEATURES, CLASSES)) for _ in range(count)])


def update(head: Array, number: int = 1, seen: bytes = listing.NOBODY) -> Update:
    return Update(Vector.of(np.asarray(head, np.float32)), number, seen)


def order(listed: dict[str, Update] | None = None, number: int = 2, before: bytes = listing.NOBODY, **how: Any) -> Order:
    found = dict(sorted((listed or {}).items()))
    sketches = np.array([sketch(one.head.whole(), 3) for one in found.values()], np.float32).reshape(-1, SKETCH)
    digests = {sender: payload_digest(one) for sender, one in found.items()}
    return Order(3, number, digests, sketches, before, Training(**how))


def client_half() -> Any:
    return registry.client_side("bristle")


def blank(rows: int = FEATURES, columns: int = CLASSES) -> Local:
    zeros = np.zeros((rows, columns), np.float32)
    return Local(zeros, zeros, zeros, zeros)


# What a head is worth.


def test_the_worked_values() -> None:
    # f .5, g .6: d = 1, s = 1. f .5, g .4: s = -1. f 0, g 1: s = 10^3. f .8, g .4: s = -4^4.8.
    own, peer = np.array([0.5, 0.5, 0.0, 0.8]), np.array([0.6, 0.4, 1.0, 0.4])
    found, sure = score(own, peer), np.ones(4)
    assert np.allclose(found, [1, -1, 1000, -776], atol=0.06)
    assert np.allclose(weight(found, sure), [1.025, 0.975, 5.9995, 0], atol=1e-3)
    assert np.allclose(weight(found, 0.5 * sure), 0.5 * weight(found, sure))
    edge = 100 * np.log(2 / 3)
    found = weight(np.array([0, -1e6, 1e6, edge - 1e-6]), sure)
    assert found.tolist() == [1, 0, 6, 0]
    assert weight(np.array([edge + 1e-6]), sure[:1]) > 0


def test_f1_by_hand_and_with_foreign_answers() -> None:
    # Records of classes 0, 0, 2; the head says 0, 1, 0. Class 0: a hit, a miss, a false alarm: 2 / (2 + 2).
    x = np.eye(3)
    head = np.zeros((1, 3, 3))
    head[0, 0, 0] = head[0, 1, 1] = head[0, 2, 0] = 1
    assert f1_per_class(x, np.array([0, 0, 2]), head, np.array([0, 2])).tolist() == [[0.5, 0.0]]
    # A head that never leaves the familiar classes has a hit more.
    head[0, 1] = [1, 0, 0]
    assert f1_per_class(x, np.array([0, 0, 2]), head, np.array([0, 2])).tolist() == [[4 / 5, 0.0]]


def test_trust_judges_a_peer_on_its_best_classes() -> None:
    own = np.array([0.5, 0.5, 0.5, 0.5])
    found = trust(own, np.array([[0.5, 0.6, 0.4, 0.0]]), 3)
    certainty = 0.5 - np.std([0.5, 0.6, 0.4])
    assert np.allclose(found.columns, certainty * np.array([[1, 1.025, 0.975, 0]]), atol=1e-3)
    assert np.allclose(found.foreign, certainty, atol=1e-3), "gain and loss add up to nothing"
    # Fewer classes than phi: all of them.
    assert trust(own[:2], np.array([[0.5, 0.5]]), 99).columns.tolist() == [[0.5, 0.5]]


# Invariants of the integrator.


def test_equal_heads_change_nothing() -> None:
    own = centred(heads(1)[0])
    held = records(10, 2)
    found = centred(integrate(own, np.array([own] * 7), held.x.astype(float), held.y, FAMILIAR, 3))
    assert np.abs(found - own).max() < 1e-12


def test_a_useless_peer_leaves_every_bit() -> None:
    own, others = heads(1)[0], heads(3, 4)
    own[0, 1] = -0.0
    held = records(10, 2)
    bad = np.zeros_like(own)
    bad[:, 4] = 100.0  # whatever it is shown, it says 4, which this device does not know
    x = held.x.astype(float)
    assert not f1_per_class(x, held.y, bad[None], FAMILIAR).any()
    for others_ in (others[:0], others):
        with_ = np.concatenate([others_, bad[None]])
        first, second = (integrate(own, one, x, held.y, FAMILIAR, 3) for one in (others_, with_))
        assert first.tobytes() == second.tobytes()
    alone = mix(own, bad[None], Trust(np.zeros((1, 3)), np.zeros(1)), FAMILIAR)
    assert alone.tobytes() == own.tobytes()


def test_order_of_peers_and_names_of_classes_do_not_matter() -> None:
    own, others, held = heads(1)[0], heads(5, 4), records(10, 2)
    x = held.x.astype(float)
    found = integrate(own, others, x, held.y, FAMILIAR, 2)
    assert np.allclose(found, integrate(own, others[::-1], x, held.y, FAMILIAR, 2), rtol=0, atol=1e-12)
    # Class c becomes place[c].
    place = np.array([3, 0, 4, 1, 2])
    back = np.argsort(place)
    renamed = integrate(own[:, back], others[:, :, back], x, place[held.y], np.sort(place[FAMILIAR]), 2)
    assert np.allclose(renamed, found[:, back], rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_every_column_lies_between_those_it_is_made_of(seed: int) -> None:
    own, others, held = heads(1, seed)[0], heads(6, seed + 50), records(10, seed)
    x = held.x.astype(float)
    every = f1_per_class(x, held.y, np.concatenate([own[None], others]), FAMILIAR)
    given = trust(every[0], every[1:], 2)
    found = mix(own, others, given, FAMILIAR)
    assert (given.columns > 0).any()
    assert (given.columns == 0).any()
    for column in range(CLASSES):
        familiar = np.flatnonzero(column == FAMILIAR)
        used = given.columns[:, familiar[0]] if len(familiar) else given.foreign
        share = np.concatenate([[1.0], used])
        hull = np.concatenate([own[None], others])[:, :, column]
        assert np.allclose(found[:, column], share @ hull / share.sum(), atol=1e-12)
        inside = hull[share > 0]
        assert (found[:, column] <= inside.max(axis=0) + 1e-12).all()
        assert (found[:, column] >= inside.min(axis=0) - 1e-12).all()


def test_controls_by_hand() -> None:
    rows = np.array([0.0, 1, 2, 3, 100]).reshape(5, 1, 1)
    found = {name: float(rule(rows, 1)[0, 0]) for name, rule in controls.CONTROLS.items()}
    # Krum with one liar of five: two nearest of each; 1 and 2 have squares 1 + 1, the first of them is taken.
    assert found == {"mean": 21.2, "median": 2.0, "trimmed": 2.0, "krum": 1.0}
    assert controls.trimmed(rows, 99)[0, 0] == 2.0, "more liars than can be cut: the middle"


# Who is read.


@pytest.mark.parametrize("explore", [0.0, 0.1, 0.4, 0.5, 1.0])
def test_exactly_as_many_distinct_heads_as_there_may_be(explore: float) -> None:
    rng = np.random.default_rng(0)
    for count in range(40):
        for budget in (1, 2, 7, 10, 39):
            found = choose(rng.random(count), budget, explore, rng)
            assert len(found) == len(set(found)) == min(budget, count)
            assert found == sorted(found)
            assert set(found) <= set(range(count))
            assert sum(shares(budget, explore)) == budget
    assert shares(10, 0.4) == [4, 5, 1]  # 3.6, 4.8, 1.6; the code's rounding gives 4 + 5 + 2
    assert shares(10, 0.0) == [10, 0, 0]


def test_short_groups_are_filled_from_the_nearest() -> None:
    # Six heads, five wanted, all near: the near group has two, so that three more come by distance.
    found = choose(np.array([5.0, 4, 3, 2, 1, 0]), 5, 0.0, np.random.default_rng(1))
    assert found == [1, 2, 3, 4, 5]


def test_groups_are_read_as_often_as_they_should() -> None:
    # 1,000 draws of 10 out of 60 (20 per group), exploration 0.4. Remainders make 4, 5, 1 of 3.6, 4.8, 1.6, so that shares are
    # exact where budgets suit: with 100 out of 300 they are 36, 48 and 16 in every draw; with one head per draw, by chance.
    rng = np.random.default_rng(5)
    apart = np.arange(300.0)
    seen = np.zeros(300)
    for _ in range(1000):
        found = np.array(choose(apart, 100, 0.4, rng))
        assert np.bincount(found // 100, minlength=3).tolist() == [36, 48, 16]
        seen[found] += 1
    # Inside a group everybody is drawn alike: binomial, 3 sigma; of 300 about 0.8 lie beyond, 8 with a chance below 1e-5.
    for group, share in enumerate((0.36, 0.48, 0.16)):
        part = seen[100 * group : 100 * group + 100]
        # Draws without replacement vary less than binomial ones.
        beyond = np.abs(part - 1000 * share) > 3 * np.sqrt(1000 * share * (1 - share))
        assert beyond.sum() < 8
        assert abs(part.mean() - 1000 * share) < 1e-9


def test_sketches_keep_distances() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.standard_normal((256, 10)), rng.standard_normal((256, 10))) for _ in range(200)]
    ratios = np.array([
        np.linalg.norm(sketch(a, 7).astype(float) - sketch(b, 7)) / np.linalg.norm(a - b) for a, b in pairs
    ])  # fmt: skip
    # Squares have mean 1 and deviation sqrt(2 / 64) = 0.177, distances half of that; 200 of them: mean within 5 x 0.0063.
    assert abs((ratios**2).mean() - 1) < 5 * 0.177 / np.sqrt(200)
    assert 0.06 < ratios.std() < 0.12
    assert sketch(pairs[0][0], 7).tobytes() == sketch(pairs[0][0].reshape(-1), 7).tobytes()
    assert sketch(pairs[0][0], 8).tobytes() != sketch(pairs[0][0], 7).tobytes()


# A round on a device.


def begun(half: Any, one: TableTask, **how: Any) -> Local:
    found: Local = half.begin(order(number=1, **how), one, stream(0))
    return found


def test_training_touches_no_foreign_column() -> None:
    half, one = client_half(), task()
    local = replace(begun(half, one), kept=heads(1)[0].astype(np.float32))
    after, sent, _ = half.work(order(number=1, steps=7), local, one, stream(0))
    foreign = [1, 4]
    assert after.kept[:, foreign].tobytes() == local.kept[:, foreign].tobytes()
    assert (after.kept[:, FAMILIAR] != local.kept[:, FAMILIAR]).all()
    assert sent.head.whole().reshape(FEATURES, CLASSES).tobytes() == after.kept.tobytes()
    # Control: training itself does move them, and `keep = "all"` keeps that.
    assert (after.trained[:, foreign] != local.kept[:, foreign]).any()
    plain, _, _ = half.work(order(number=1, steps=7, keep="all"), local, one, stream(0))
    assert plain.kept.tobytes() == plain.trained.tobytes() == after.trained.tobytes()


def test_one_step_of_adam_by_hand() -> None:
    # Zero head, one record x = (1, 0, ..), class 0 of 5: slope p - 1 = -0.8 at (0, 0), 0.2 elsewhere in its row; the first step
    # of Adam is the rate against the sign, whatever the size.
    one = task(Records(np.eye(FEATURES, dtype=np.float32)[:1], np.array([0])))
    half = client_half()
    after, _, facts = half.work(order(number=1, learning_rate=0.5), begun(half, one), one, stream(0))
    assert np.allclose(after.trained[0], [0.5, -0.5, -0.5, -0.5, -0.5], atol=1e-6)
    assert not after.trained[1:].any()
    assert set(facts) <= set(FACTS)


def test_a_device_does_not_read_itself_and_reads_what_it_can() -> None:
    half, one = client_half(), task()
    local, mine, _ = half.work(order(number=1, steps=7), begun(half, one), one, stream(0))
    others = {f"c{i}": update(head) for i, head in enumerate(heads(4, 9))}
    asked = order({**others, "me": mine})
    assert half.choose(asked, local, one, stream(1)) == tuple(others)
    assert half.choose(replace(asked, training=Training(integrator="alone")), local, one, stream(1)) == ()
    assert half.choose(order(number=1), local, one, stream(1)) == ()
    assert half.choose(order({"me": mine}), local, one, stream(1)) == ()
    assert len(half.choose(order(others, budget=2), local, one, stream(1))) == 2
    assert half.receive(asked, local, {}, one, stream(1)) is local, "nobody could be had: the round goes on"
    read = half.receive(asked, local, {"c1": others["c1"]}, one, stream(1))
    expected = integrate(
        local.kept, heads(4, 9)[1:2].astype(np.float32), one.held_data.x.astype(float), one.held_data.y, FAMILIAR, 3  # type: ignore[union-attr]
    )  # fmt: skip
    assert read.kept.tobytes() == centred(expected).astype(np.float32).tobytes()
    raw = half.receive(replace(asked, training=Training(centre=False)), local, {"c1": others["c1"]}, one, stream(1))
    assert raw.kept.tobytes() == expected.astype(np.float32).tobytes()
    drifted = half.receive(order(others, base="trained"), local, {"c1": others["c1"]}, one, stream(1))
    assert drifted.kept.tobytes() != read.kept.tobytes()
    for rule in controls.CONTROLS:
        found = half.receive(order(others, integrator=rule, liars=1), local, others, one, stream(1)).kept
        assert np.abs(found.mean(axis=0)).max() < 1e-6, "centred like every head"
    assert half.load(half.dump(read)).kept.tobytes() == read.kept.tobytes()
    with pytest.raises(WrongShape, match="keeps 564"):
        half.load(half.dump(read)[:-1])
    with pytest.raises(WrongShape, match="at least 84"):
        half.load(b"x")


# One word for all.


def test_two_listings_in_one_round_are_found_out() -> None:
    half, one = client_half(), task()
    first, other = heads(2, 3)
    seen = listing.digest_of({"a": bytes(32)})
    local = replace(begun(half, one), round=2, seen=seen)
    good = {"a": update(first, 2, seen), "b": update(other, 2, seen)}
    asked = order(good, 3, before=seen)
    half.receive(asked, local, good, one, stream(0))
    told = listing.digest_of({"a": bytes([1]) * 32})
    with pytest.raises(EquivocationError, match="'b' was shown the listing"):
        half.receive(asked, local, {**good, "b": update(other, 2, told)}, one, stream(0))
    with pytest.raises(EquivocationError, match="round 2 listed .* for this device"):
        half.receive(replace(asked, before=told), local, {}, one, stream(0))
    # A device that was not there in round 2 cannot hold its own memory against anybody.
    half.receive(replace(asked, before=told), replace(local, round=1), {}, one, stream(0))
    with pytest.raises(Stale, match="'b' was made in round 1; round 3 reads round 2"):
        half.receive(asked, local, {**good, "b": update(other, 1, seen)}, one, stream(0))


def test_an_honest_server_lists_nobody_who_could_raise_the_alarm() -> None:
    server = registry.server_side("bristle", Settings(), SCHEMA, 3)
    state = server.start(Vector.of(np.zeros(SCHEMA.size, np.float32)))
    sent = [update(one) for one in heads(4)]
    sent[1] = replace(sent[1], seen=bytes(32))
    sent[2] = replace(sent[2], round=2)
    after, facts = server.close(state, [Weighted(f"c{i}", 1.0, one) for i, one in enumerate(sent)], MemorySpace())
    assert facts["heads_left_out"] == 2
    assert dict(after.listing) == {"c0": payload_digest(sent[0]), "c3": payload_digest(sent[3])}
    asked = server.open(after, Cohort(2, ()))
    assert (asked.round, asked.before) == (2, listing.NOBODY)
    later, _ = server.close(
        after, [Weighted("c0", 1.0, replace(sent[0], round=2, seen=listing.digest_of(after.listing)))], MemorySpace()
    )
    assert server.open(later, Cohort(3, ())).before == listing.digest_of(after.listing)


def test_a_server_with_two_faces_is_found_out_in_the_next_round() -> None:
    half, one = client_half(), task()
    names = ("c0", "c1", "c2")
    locals_ = {name: begun(half, one) for name in names}

    def play(number: int, orders: dict[str, Order], before: dict[str, Update]) -> dict[str, Update]:
        sent = {}
        for name in names:
            asked, rng = orders[name], stream(number, name)
            read = {other: before[other] for other in half.choose(asked, locals_[name], one, rng)}
            local = half.receive(asked, locals_[name], read, one, rng)
            locals_[name], sent[name], _ = half.work(asked, local, one, rng)
        return sent

    first = play(1, dict.fromkeys(names, order(number=1)), {})
    whole = order(first, 2)
    shown = order({name: first[name] for name in ("c1", "c2")}, 2)  # c2 is not to hear of c0
    kept = dict(locals_)
    honest = play(2, dict.fromkeys(names, whole), first)
    play(3, dict.fromkeys(names, order(honest, 3, listing.digest_of(whole.listing))), honest)  # control: one face
    locals_ = kept
    forked = play(2, {"c0": whole, "c1": whole, "c2": shown}, first)
    asked = order(forked, 3, listing.digest_of(whole.listing))
    for name, says in (("c0", "'c2' was shown"), ("c1", "'c2' was shown"), ("c2", "round 2 listed .* for this device")):
        read = {other: update for other, update in forked.items() if other != name}
        with pytest.raises(EquivocationError, match=says):
            half.receive(asked, locals_[name], read, one, stream(0))
    half.receive(asked, locals_["c0"], {"c1": forked["c1"]}, one, stream(0))  # who never reads c2 does not find out


# The server.


def closed(server: Any, state: State, found: Sequence[Array], number: int = 1) -> tuple[State, dict[str, float]]:
    seen = listing.digest_of(state.listing)
    sent = [Weighted(f"c{i}", 1.0, update(one, number, seen)) for i, one in enumerate(found)]
    after, facts = server.close(state, sent, MemorySpace())
    return after, facts


def test_columns_above_the_median_are_not_listed() -> None:
    server = registry.server_side("bristle", Settings(norm_factor=10.0), SCHEMA, 3)
    state = server.start(Vector.of(np.zeros(SCHEMA.size, np.float32)))
    ones = np.zeros((FEATURES, CLASSES))
    ones[0, 0] = 1.0  # the longest column has length 1; most columns are zero at first, and say nothing
    state, facts = closed(server, state, [ones, ones, 1000 * ones])
    assert (facts["heads_left_out"], state.median) == (1, 1.0), "the first round is measured by itself"
    after, facts = closed(server, state, [10 * ones, 10.1 * ones], 2)
    assert facts["heads_left_out"] == 1
    assert list(after.listing) == ["c0"]
    assert server.weights(after, MemorySpace()).whole()[0] == 10
    free = registry.server_side("bristle", Settings(norm_factor=0.0), SCHEMA, 3)
    assert len(closed(free, state, [10 * ones, 1e6 * ones], 2)[0].listing) == 2
    # Everybody is left out: the model stays, and nobody is read.
    none, facts = closed(server, state, [1e3 * ones], 2)
    assert (dict(none.listing), none.median, none.sketches.size) == ({}, 1.0, 0)
    assert none.model.whole().tobytes() == state.model.whole().tobytes()
    assert set(facts) <= set(FACTS)


def test_more_than_a_listing_holds_are_drawn() -> None:
    server = registry.server_side("bristle", Settings(listing_limit=3), SCHEMA, 3)
    state = server.start(Vector.of(np.zeros(SCHEMA.size, np.float32)))
    drawn = []
    for number in range(1, 9):
        state, facts = closed(server, state, list(heads(8)), number)
        assert (len(state.listing), facts["heads_left_out"]) == (3, 0)
        drawn.append(tuple(state.listing))
        assert list(drawn[-1]) == sorted(drawn[-1])
        asked = server.open(state, Cohort(number + 1, ()))
        for sender, row in zip(asked.listing, asked.sketches, strict=True):
            assert row.tobytes() == sketch(heads(8)[int(sender[1:])].astype(np.float32), 3).tobytes()
    assert len(set(drawn)) > 4


def test_what_cannot_be_a_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="one head of features by classes"):
        registry.server_side("bristle", Settings(), Schema((Tensor("w", (4,)),)), 0)
    server = registry.server_side("bristle", Settings(), SCHEMA, 0)
    with pytest.raises(ConfigError, match="start at zero") as found:
        server.start(Vector.of(np.ones(SCHEMA.size, np.float32)))
    assert found.value.field == "model.file"
    with pytest.raises(ConfigError, match="liars = 5 of 5"):
        Settings(integrator="krum", liars=5).check(5)
    with pytest.raises(ConfigError, match=r"norm_factor = 0.5; at least 1"):
        Settings(norm_factor=0.5).check(5)


# The law on the wire.


def changed(payload: Payload, at: int, data: bytes) -> Payload:
    body = bytearray(payload.body.read(0, payload.body.size))
    body[at : at + len(data)] = data
    return Payload(payload.header, Bytes(bytes(body)))


def test_orders_outside_the_law_are_refused() -> None:
    sent = {name: update(head) for name, head in zip(("ab", "cd"), heads(2), strict=True)}
    good = CODEC.encode_order(order(sent))
    found = CODEC.decode_order(good, SCHEMA)
    assert (dict(found.listing), found.round) == ({name: payload_digest(one) for name, one in sent.items()}, 2)
    entry = 1 + 2 + 32
    for bad, says, kind in (
        (changed(good, 5, b"zz"), "must ascend", OutsideLaw),
        (changed(good, 4 + entry + 1, b"ab"), "listed after 'ab'", OutsideLaw),
        (changed(good, 5, b"\xff\xff"), "no UTF-8", OutsideLaw),
        (changed(good, 0, b"\x03"), "listing ends|sketches|no UTF-8|ascend", RejectedUpdate),
        (changed(good, 0, b"\x01"), "1 senders need 256", WrongShape),
        (changed(good, 0, b"\xff\xff\xff\xff"), "at most 100000", WrongShape),
        (changed(good, 4, b"\x00"), "has no id", WrongShape),
        (changed(good, 4 + 2 * entry, b"\x00\x00\xc0\x7f"), "value 0 is nan", NotFinite),
        (CODEC.encode_order(order(sent, number=1)), "first round lists 2", OutsideLaw),
        (CODEC.encode_order(replace(order(sent), before=b"short")), "before of 5 bytes", WrongShape),
        (CODEC.encode_order(replace(order(sent), round=0)), "round 0", OutsideLaw),
    ):
        with pytest.raises(kind, match=says):
            CODEC.decode_order(bad, SCHEMA)
    crooked = CODEC.encode_order(order(sent, explore=0.4))
    header = crooked.header.replace(np.float64(0.4).tobytes(), np.float64(1.4).tobytes())
    with pytest.raises(OutsideLaw, match="explore"):
        CODEC.decode_order(Payload(header, crooked.body), SCHEMA)


def test_heads_outside_the_law_are_refused() -> None:
    good = CODEC.encode_update(update(heads(1)[0]))
    assert good.body.size == 4 * FEATURES * CLASSES == CODEC.body_bytes(SCHEMA)[0]
    for bad, says, kind in (
        (changed(good, 4, b"\x00\x00\x80\x7f"), "value 1 is inf", NotFinite),
        (changed(good, 4, np.float32(3e38).tobytes()), "at most 1e", OutsideLaw),
        (CODEC.encode_update(update(np.zeros((FEATURES, CLASSES + 1)))), "a head of 30 float32 values needs 120", WrongShape),
        (CODEC.encode_update(update(heads(1)[0], 0)), "round 0", OutsideLaw),
        (CODEC.encode_update(update(heads(1)[0], 1, b"")), "seen of 0 bytes", WrongShape),
    ):
        with pytest.raises(kind, match=says):
            CODEC.decode_update(bad, SCHEMA)


# Records that do not fit.


def test_bad_records_are_named() -> None:
    half = client_half()
    read = {"a": update(heads(1)[0])}

    def use(one: TableTask) -> None:
        local = blank()
        half.choose(order(read), local, one, stream(0))
        half.receive(order(read), local, read, one, stream(0))
        half.work(order(read), local, one, stream(0))

    use(task())
    nan = records()
    nan.x[3, 2] = np.nan
    with pytest.raises(ConfigError, match=r"training records: column '2', row 4 is nan"):
        use(task(nan))
    with pytest.raises(ConfigError, match=r"own test records: column '2', row 4 is nan"):
        use(task(held=nan))
    with pytest.raises(ConfigError, match=r"trains on classes \[3\] and has no own test records of them"):
        use(task(held=records(classes=(0, 2))))
    with pytest.raises(ConfigError, match=r"trains on classes \[0, 2, 3\] and has no own test records"):
        use(replace(task(), held_data=None))
    with pytest.raises(ConfigError, match="has no training records"):
        use(replace(task(), train_data=None))
    with pytest.raises(ConfigError, match="at least one record"):
        use(task(Records(np.zeros((0, FEATURES), np.float32), np.zeros(0, np.int64))))
    with pytest.raises(ConfigError, match="class 5; the head has classes 0 to 4"):
        use(task(Records(records().x, np.full(12, 5))))
    with pytest.raises(ConfigError, match="3 features; the head takes 6"):
        use(task(Records(records().x[:, :3], records().y)))
    with pytest.raises(ConfigError, match="targets of float64"):
        use(task(Records(records().x, records().y * 1.0)))
    with pytest.raises(ConfigError, match="learns from tables"):
        half.work(order(), blank(1, 1), cast(Any, object()), stream(0))
    with pytest.raises(WrongShape, match=r"keeps a head of \[2, 2\]; its task now has one of \[6, 5\]"):
        half.work(order(), blank(2, 2), task(), stream(0))
    # phi above the number of classes: all of them judge.
    local = blank()
    wide, exact = (half.receive(order(read, shared=n), local, read, task(), stream(0)).kept for n in (99, 3))
    assert wide.tobytes() == exact.tobytes()


# Whole runs.


def plan(rounds: int, size: int, **how: Any) -> tuple[Any, Any]:
    more = "".join(f"{key} = {value!r}\n".replace("'", '"') for key, value in how.items())
    return parse_plan(
        f'[run]\nname = "heads"\nrounds = {rounds}\ntask = "digits"\nseed = 5\n[cohort]\nsize = {size}\nquorum = {size}\n'
        f'over_select = 1.0\n[evaluation]\nevery = 0\n[method]\nname = "bristle"\nlearning_rate = 0.01\n{more}',
        registry.method,
    )


def fleet(devices: int) -> engine.VirtualFleet:
    return engine.VirtualFleet("edgehold.client.data.frozen:make_task", {"width": 64}, devices)


def test_a_killed_run_goes_on_and_processes_change_nothing(tmp_path: Any) -> None:
    played = plan(6, 5, budget=3)
    whole = engine.run(*played, fleet(5))
    assert engine.run(*played, fleet(5)).digest == whole.digest
    assert engine.run(*played, fleet(5), workers=2).digest == whole.digest

    def dies(number: int, facts: Any) -> None:
        if number == 3:
            raise KeyboardInterrupt

    path = tmp_path / "run.sqlite"
    with pytest.raises(KeyboardInterrupt):
        engine.run(*played, fleet(5), on_round=dies, store=engine.Store(path))
    store = engine.Store(path)
    assert len(store.letters()) == 5
    assert engine.run(*played, fleet(5), store=store).digest == whole.digest
    # Control: who is read moves the model.
    assert engine.run(*plan(6, 5, budget=3, integrator="alone"), fleet(5)).digest != whole.digest


def test_peers_teach_classes_that_a_device_never_saw() -> None:
    devices, half = fleet(10), client_half()
    own = devices.own_copy()

    def mean(**how: Any) -> float:
        store = engine.Store()
        engine.run(*plan(40, 10, budget=99, steps=3, **how), devices, store=store)
        return float(np.mean([own.evaluate(half.load(store.local(c) or b"").kept.reshape(-1))["accuracy"] for c in devices]))

    alone, read = mean(integrator="alone"), mean()
    assert alone < 0.4, "four of ten classes"
    assert read > alone + 0.1
