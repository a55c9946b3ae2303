"""FRL: worked by hand, its law on the wire, what a liar can and cannot do, a run on the digits."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgehold.attacks.eval.data import make_task
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.client.models import vision
from edgehold.core.config import convert
from edgehold.core.contract import Cohort, Payload, Weighted
from edgehold.core.errors import ConfigError, NotPermutation, OutsideLaw, RejectedUpdate, WrongShape
from edgehold.core.facts import FACTS
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.torch_masks import Cut, ScoreTraining, bare, train_scores
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Bytes, MemorySpace, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.frl.server import count, in_reach
from edgehold.defenses.frl.sorting import inverse, sorted_places
from edgehold.defenses.frl.state import (
    Order,
    Ranking,
    Ranks,
    Settings,
    State,
    Training,
    Update,
    cut_ranks,
    ranks_by,
    scores_of,
    weights_of,
)
from edgehold.defenses.layers import layers_of
from edgehold.defenses.packing import packed_bytes, width
from edgehold.proto.v1.payloads_pb2 import FrlTask, FrlUpdate, TaskHeader, UpdateHeader
from edgehold.server import engine

SQUARE = Schema((Tensor("a", (2, 2)),))
TWO = Schema((Tensor("a", (3, 5)), Tensor("b", (2, 3, 2, 1))))


def ranking(*edges: int) -> Ranking:
    return np.array(edges, dtype=np.int32)


def vote_of(ranks: list[Ranks]) -> Update:
    return Update(ranks, (False,) * len(ranks))


def close(schema: Schema, votes: list[list[Ranks]], **settings: Any) -> tuple[State, list[list[int]], dict[str, float]]:
    """(state, ranks of every layer, facts) after these votes."""
    server = registry.server_side("frl", Settings(**settings), schema, 3)
    state = server.start(Vector.of(np.zeros(schema.size, np.float32)))
    updates = [Weighted(f"c{number}", 1.0, vote_of(vote)) for number, vote in enumerate(votes)]
    after, facts = server.close(state, updates, MemorySpace())
    return after, [one.tolist() for one in server.open(after, Cohort(2, ("c0",))).ranks], facts


def drawn(rng: np.random.Generator, schema: Schema) -> list[Ranks]:
    return [rng.permutation(layer.edges).astype(np.int32) for layer in layers_of(schema, "FRL")]


def votes_for(ranks: list[Ranks]) -> Any:
    """V of one layer."""
    return count([[one] for one in ranks], 0, len(ranks[0]))


# The vote.


def test_two_votes_by_hand() -> None:
    # Ranks (1,3,0,2) and (2,3,0,1) add up to (3,6,0,3): edge 2, then 0 and 3 (equal, by id), then 1.
    lists = [ranking(2, 0, 3, 1), ranking(2, 3, 0, 1)]
    ranks = [inverse(one) for one in lists]
    assert [one.tolist() for one in ranks] == [[1, 3, 0, 2], [2, 3, 0, 1]]
    assert votes_for(ranks).tolist() == [3, 6, 0, 3]
    assert close(SQUARE, [[one] for one in ranks])[1] == [inverse(ranking(2, 0, 3, 1)).tolist()]


def test_adding_up_lists_instead_of_ranks_would_be_seen() -> None:
    lists = [ranking(2, 0, 3, 1), ranking(2, 3, 0, 1)]
    assert np.sum(lists, axis=0).tolist() != votes_for([inverse(one) for one in lists]).tolist()


def test_order_of_clients_is_irrelevant_and_equal_votes_are_kept() -> None:
    rng = stream(1, "votes")
    votes = [drawn(rng, TWO) for _ in range(5)]
    expected = close(TWO, votes)[1]
    for other in ([3, 1, 4, 0, 2], [4, 3, 2, 1, 0]):
        assert close(TWO, [votes[i] for i in other])[1] == expected
    assert close(TWO, [votes[0]] * 7)[1] == [one.tolist() for one in votes[0]]


def test_relabelled_edges_relabel_the_vote() -> None:
    rng = stream(2, "votes")
    ranks = [rng.permutation(31).astype(np.int32) for _ in range(4)]
    names = rng.permutation(31)
    assert votes_for([one[names] for one in ranks]).tolist() == votes_for(ranks)[names].tolist()


def test_votes_are_counted_wide_where_they_need_it() -> None:
    # 2^31 / 70,000 is 30,678.3: so many votes for the last rank still fit int32, one more does not.
    vote = [np.arange(70_001, dtype=np.int32)]
    few, many = [vote] * 2, _Repeated(vote, 30_679)
    assert count(few, 0, 70_001).dtype == np.int32
    assert count(many, 0, 70_001).dtype == np.int64


class _Repeated(list[Any]):
    """Says that it is `times` long, holds one vote: only the choice of the type is wanted."""

    def __init__(self, vote: Any, times: int) -> None:
        super().__init__([vote])
        self.times = times

    def __len__(self) -> int:
        return self.times


@pytest.mark.parametrize(("voters", "edges"), [(1, 1), (1, 7), (6, 2), (9, 300)])
def test_votes_add_up_to_a_known_sum(voters: int, edges: int) -> None:
    rng = stream(3, "votes")
    votes = votes_for([rng.permutation(edges).astype(np.int32) for _ in range(voters)])
    assert votes.sum() == voters * edges * (edges - 1) // 2


def test_no_liars_beat_a_gap_beyond_their_reach_and_some_beat_one_within() -> None:
    rng = stream(4, "flip")
    n, honest, liars = 6, 9, 2
    beaten = 0
    for _ in range(40):
        base = rng.permutation(n)
        lists = [ranks_by((np.argsort(base) + rng.normal(0, 1.5, n)).astype(np.float32)) for _ in range(honest)]
        votes = votes_for(lists)
        random = [[rng.permutation(n).astype(np.int32) for _ in range(liars)] for _ in range(20)]
        for i, j in itertools.permutations(range(n), 2):
            gap = votes[i] - votes[j]
            # The strongest lie against i over j: j on top, i at the bottom, in every list.
            worst = inverse(ranking(i, *[edge for edge in range(n) if edge not in (i, j)], j))
            for lies in [*random, [worst] * liars]:
                after = votes_for([*lists, *lies])
                if gap > liars * (n - 1):
                    assert after[i] > after[j]
                beaten += int(0 < gap < liars * (n - 1) and after[i] < after[j])
            if 0 < gap < liars * (n - 1):
                after = votes_for([*lists, *[worst] * liars])
                assert after[i] < after[j]
    assert beaten > 100, "no attack succeeded: the bound was not tried"


def test_reach_by_hand() -> None:
    # n = 4, one liar moves 3. V = (0, 2, 5, 9), two kept: the cut lies between 2 and 5.
    votes = np.array([0, 2, 5, 9])
    assert in_reach(votes, ranking(0, 1, 2, 3), (0, 2), 1).tolist() == [False, True, True, False]
    assert in_reach(votes, ranking(0, 1, 2, 3), (0, 2), 0).tolist() == [False] * 4
    assert in_reach(votes, ranking(0, 1, 2, 3), (0, 0), 1).tolist() == [False] * 4
    # Both tails are used and ranks 1 and 2 are not: 0 and 2 lie within 3 of each other, 5 and 9 do not.
    assert in_reach(votes, ranking(0, 1, 2, 3), (1, 3), 1).tolist() == [True, True, False, False]


def test_facts_say_what_moved_and_what_could() -> None:
    _, _, facts = close(SQUARE, [[ranking(0, 1, 2, 3)]] * 3, liars=1)
    before = set(np.flatnonzero(scores_of(3, 0, 4, 2)[1] >= 2).tolist())
    # V = (0, 3, 6, 9): a liar moves 3, so both neighbours of the cut are in reach.
    assert facts == {"edges_swapped": len({2, 3} - before) / 4, "edges_contested": 0.5}
    assert set(facts) <= set(FACTS)


# Weights and scores.


def test_both_sides_draw_the_same_and_the_paper_s_distributions() -> None:
    weights = weights_of(5, 0, 40_000, 50)
    assert set(np.unique(weights).tolist()) == {-np.float32(0.2), np.float32(0.2)}  # sqrt(2 / 50)
    # 40,000 signs: the mean has an sd of 0.001; 5 sd.
    assert abs(weights.mean()) < 0.005
    base, order = scores_of(5, 0, 40_000, 25)
    assert (np.diff(base) >= 0).all()
    assert base.min() >= 0
    assert base.max() <= 0.2
    # Uniform on (0, 0.2): the mean has an sd of 0.0003; 5 sd.
    assert abs(base.mean() - 0.1) < 0.0015
    assert sorted(order.tolist()) == list(range(40_000))
    assert weights_of(5, 1, 10, 50).tolist() != weights_of(5, 0, 10, 50).tolist()
    assert weights_of(6, 0, 99, 50).tolist() != weights_of(5, 0, 99, 50).tolist()


def test_weights_stay_what_the_seed_drew_and_keep_exactly_the_upper_part() -> None:
    rng = stream(6, "votes")
    server = registry.server_side("frl", Settings(keep=0.4), TWO, 3)
    state = server.start(Vector.of(np.zeros(TWO.size, np.float32)))
    for _ in range(3):
        dense = server.weights(state, MemorySpace()).whole()
        for number, (layer, one) in enumerate(zip(layers_of(TWO, "FRL"), server.open(state, Cohort(1, ())).ranks, strict=True)):
            here = dense[layer.place]
            full = weights_of(3, number, layer.edges, layer.fan_in)
            used = here != 0
            assert here[used].tobytes() == full[used].tobytes()
            assert used.tolist() == (one >= layer.dropped(0.4)).tolist()
            assert used.sum() == layer.edges - int(0.6 * layer.edges)
        state, _ = server.close(state, [Weighted("a", 1.0, vote_of(drawn(rng, TWO)))], MemorySpace())


def test_layers_and_their_fan_in() -> None:
    assert [(one.edges, one.fan_in, one.start) for one in layers_of(TWO, "FRL")] == [(15, 5, 0), (12, 6, 15)]
    bias = Schema((Tensor("lin.weight", (2, 2)), Tensor("lin.bias", (2,))))
    with pytest.raises(ConfigError, match=r"lin\.bias of shape \[2\]"):
        registry.server_side("frl", Settings(), bias, 0)


# The device.


def device(index: int = 0, hidden: tuple[int, ...] = (9,)) -> TorchTask:
    return make_task("digits", index, 8, limit=20, model="mlp", net={"hidden": list(hidden), "bias": False})


def order_for(task: TorchTask, round: int = 1, **how: Any) -> Order:
    training, found = Training(**how), layers_of(task.schema, "FRL")
    ranks = [scores_of(1, n, layer.edges, layer.fan_in, training.signed)[1] for n, layer in enumerate(found)]
    return Order(1, round, ranks, training, (False,) * len(found))


def test_a_device_sends_permutations_and_learns() -> None:
    task = device()
    client = registry.client_side("frl")
    order = order_for(task, local_epochs=3)
    _, update, facts = client.work(order, client.begin(order, task, stream(0)), task, stream(0))
    assert facts == {}
    for layer, one, before in zip(layers_of(task.schema, "FRL"), update.ranks, order.ranks, strict=True):
        assert sorted(one.tolist()) == list(range(layer.edges))
        assert one.tolist() != before.tolist()
    slow = order_for(task, local_epochs=3, learning_rate=1e-9, weight_decay=0.0)
    same = client.work(slow, None, task, stream(0))[1].ranks
    assert [one.tolist() for one in same] == [one.tolist() for one in slow.ranks], "no step, yet another ranking"


def test_one_step_by_hand() -> None:
    # Two inputs, one output, x = (1, 2), target 0, loss (y - t)^2. w = (1, -1), s = (0.25, -0.5); one edge kept: |s| says
    # the second. y = -2, dL/dy = -4, dL/dw = (-4, -8); dL/ds = dL/dw * w * sign(s) = (-4, -8): rate 0.125 gives
    # s = (0.25 + 0.5, -0.5 + 1.0) = (0.75, 0.5).
    task = TorchTask(
        lambda: nn.Linear(2, 1, bias=False),
        (np.array([[1, 2]], np.float32), np.array([[0]], np.float32)),
        None,
        lambda y, t: ((y - t) ** 2).mean(),
    )
    weights, scores = np.array([1, -1], np.float32), np.array([0.25, -0.5], np.float32)
    how = ScoreTraining(epochs=1, batch_size=1, learning_rate=0.125)
    assert train_scores(task, weights, scores, [(slice(0, 2), 1)], how, stream(0)).tolist() == [0.75, 0.5]
    assert scores.tolist() == [0.25, -0.5]
    # The next epoch of two uses the first edge (y = 1, dL/dy = 2, dL/dw = (2, 4), times w: (2, -4)) at half the rate.
    how = ScoreTraining(epochs=2, batch_size=1, learning_rate=0.125)
    after = train_scores(task, weights, scores, [(slice(0, 2), 1)], how, stream(0))
    assert after.tolist() == pytest.approx([0.75 - 0.125, 0.5 + 0.25])


def test_the_cut_among_equals_goes_by_edge_id() -> None:
    sizes = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.0])
    assert Cut(2).kept(sizes).tolist() == [True, False, True, True, False]
    assert Cut(0).kept(sizes).all()
    assert Cut(1).kept(torch.zeros(3)).tolist() == [False, True, True]
    assert sorted_places(sizes.numpy()).tolist() == [4, 1, 2, 3, 0]


@pytest.mark.parametrize("steps", [0, 3, 1000])  # a continuum, many equals, hardly any
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999, 1.0])
def test_the_cut_is_found_again_wherever_it_moves(steps: int, share: float) -> None:
    """Against a stable sort: sizes that creep, jump far beyond where the last cut was, and shrink to nothing."""
    rng = np.random.default_rng(steps)
    sizes = rng.random(20_000).astype(np.float32)
    dropped = int(share * len(sizes))
    cut = Cut(dropped)
    for factor in (1.0, 1.001, 0.99, 1.04, 50.0, 1.0, 1e-6, 0.0, 1.0):
        now = sizes * np.float32(factor)
        if steps:
            now = np.round(now * steps).astype(np.float32) / np.float32(steps)
        want = np.ones(len(now), bool)
        want[np.argsort(now, kind="stable")[:dropped]] = False
        assert (cut.kept(torch.from_numpy(now)).numpy() == want).all(), factor
        sizes += rng.normal(0, 1e-4, len(sizes)).astype(np.float32)
        np.abs(sizes, out=sizes)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), r"0*1\.bias of shape"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, 64)), nn.ConvTranspose1d(1, 1, 3, bias=False)), r"2\.weight"),
    ],
)
def test_other_parameters_are_refused_by_name(model: Any, named: str) -> None:
    data = (np.zeros((4, 64), np.float32), np.zeros(4, np.int64))
    task = TorchTask(model, data, None, nn.functional.cross_entropy)
    client = registry.client_side("frl")
    with pytest.raises(ConfigError, match=named):
        client.work(order_for(task), None, task, stream(0))


def test_a_device_needs_a_torch_task_with_records_and_the_same_layers() -> None:
    client = registry.client_side("frl")
    order = order_for(device())
    with pytest.raises(ConfigError, match="SyntheticTask is no TorchTask"):
        client.work(order, None, SyntheticTask(2, 1.0), stream(0))
    with pytest.raises(ConfigError, match="no training records"):
        client.work(order, None, make_task("digits", -1, 8, model="mlp", net={"hidden": [9], "bias": False}), stream(0))
    with pytest.raises(WrongShape, match="other layers"):
        client.work(order, None, device(hidden=(8,)), stream(0))
    with pytest.raises(WrongShape, match="keeps none"):
        client.load(b"x")


def test_convolutions_are_ranked_too() -> None:
    def model() -> nn.Module:
        conv = nn.Conv2d(1, 4, 3, bias=False)
        return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), conv, nn.ReLU(), nn.Flatten(), nn.Linear(144, 10, bias=False))

    data = (stream(0).random((24, 64), dtype=np.float32), np.arange(24) % 10)
    task = TorchTask(model, data, None, nn.functional.cross_entropy)
    found = layers_of(task.schema, "FRL")
    assert [(one.edges, one.fan_in) for one in found] == [(36, 9), (1440, 144)]
    order = order_for(task)
    update = registry.client_side("frl").work(order, None, task, stream(0))[1]
    assert [sorted(one.tolist()) for one in update.ranks] == [list(range(36)), list(range(1440))]
    assert update.ranks[0].tolist() != order.ranks[0].tolist()


def test_models_are_laid_bare_on_request_and_say_what_went() -> None:
    net = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 10))
    assert bare(net) == ["1.bias", "2.weight", "2.bias", "4.bias"]
    assert [name for name, _ in net.named_parameters()] == ["1.weight", "4.weight"]
    assert bare(net) == []
    data = (stream(0).random((24, 64), dtype=np.float32), np.arange(24) % 10)
    task = TorchTask(lambda: net, data, None, nn.functional.cross_entropy)  # non-affine GroupNorm is accepted
    update = registry.client_side("frl").work(order_for(task), None, task, stream(0))[1]
    assert [sorted(one.tolist()) for one in update.ranks] == [list(range(36)), list(range(1440))]
    with pytest.raises(ConfigError, match="layer 0 is a Embedding with the parameter weight"):
        bare(nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 2)))


def test_reference_networks_have_the_paper_s_edges() -> None:
    assert sum(p.numel() for p in vision.lenet((1, 28, 28), 10, bias=False).parameters()) == 1_625_632
    assert sum(p.numel() for p in vision.conv8((3, 32, 32), 10, bias=False).parameters()) == 5_275_840


def test_the_code_s_ranking_uses_both_tails() -> None:
    # Sorted scores; the three smallest sizes stand at ranks 1 to 3.
    assert cut_ranks(np.array([-4, -1, 0, 2, 3], np.float32), 3) == (1, 4)
    assert cut_ranks(np.array([0, 1, 2, 3], np.float32), 2) == (0, 2)
    assert cut_ranks(np.array([-1, 1], np.float32), 0) == (0, 0)
    base, ranks = scores_of(3, 0, 4000, 25, signed=True)
    assert base[0] < 0 < base[-1]
    assert (np.diff(base) >= 0).all()
    schema = Schema((Tensor("a", (160, 25)),))
    server = registry.server_side("frl", Settings(signed=True), schema, 3)
    used = server.weights(server.start(Vector.of(np.zeros(4000, np.float32))), MemorySpace()).whole() != 0
    assert used.sum() == 2000
    assert used[ranks == 0].all()
    assert used[ranks == 3999].all()
    sizes = np.abs(base[ranks])
    assert sizes[used].min() >= sizes[~used].max()


def test_signed_ranking_reaches_the_device() -> None:
    order = order_for(device(), signed=True)
    update = registry.client_side("frl").work(order, None, device(), stream(0))[1]
    by_size = registry.client_side("frl").work(order_for(device()), None, device(), stream(0))[1]
    assert sorted(update.ranks[0].tolist()) == list(range(len(update.ranks[0])))
    assert update.ranks[0].tolist() != by_size.ranks[0].tolist()


def test_all_edges_may_be_kept() -> None:
    state, _, facts = close(SQUARE, [[ranking(3, 1, 0, 2)]] * 3, keep=1.0, liars=1)
    assert facts == {"edges_swapped": 0.0, "edges_contested": 0.0}
    server = registry.server_side("frl", Settings(keep=1.0), SQUARE, 3)
    assert server.weights(state, MemorySpace()).whole().tolist() == weights_of(3, 0, 4, 2).tolist()


# The wire.


def test_bytes_of_the_reference_networks() -> None:
    net = Schema((Tensor("a", (128, 64)), Tensor("b", (128, 128)), Tensor("c", (10, 128))))
    assert registry.codec("frl").body_bytes(net) == (43_744, 43_744)
    lenet = Schema(
        (Tensor("a", (32, 1, 3, 3)), Tensor("b", (64, 32, 3, 3)), Tensor("c", (128, 12_544)), Tensor("d", (10, 128)))
    )
    assert lenet.size == 1_625_632
    assert registry.codec("frl").body_bytes(lenet)[0] / 2**20 == pytest.approx(4.05, abs=0.01)


HEADER = UpdateHeader(frl=FrlUpdate(entropy=[False], top=1.0)).SerializeToString()


def bits_of(*values: int, size: int = 3, fill: int = 0) -> bytes:
    """Fewer than eight numbers as they are packed."""
    number = sum(value << (size * place) for place, value in enumerate(values)) | fill << (size * len(values))
    return number.to_bytes(-(-size * len(values) // 8), "little")


FIVE = Schema((Tensor("net.weight", (1, 5)),))


@pytest.mark.parametrize(
    ("header", "body", "error", "says"),
    [
        (HEADER, bits_of(4, 1, 0, 3, 3), NotPermutation, r"net\.weight: rank 2 is missing"),
        (HEADER, bits_of(0, 0, 0, 0, 0), NotPermutation, "rank 1 is missing"),
        (HEADER, bits_of(4, 1, 0, 3, 5), NotPermutation, "edge 4 has rank 5; the layer has ranks 0 to 4"),
        (HEADER, bits_of(7, 1, 0, 3, 2), NotPermutation, "edge 0 has rank 7"),
        (HEADER, bits_of(4, 1, 0, 3, 2, fill=1), WrongShape, "fill up the last byte"),
        (HEADER, bits_of(4, 1, 0, 3, 2)[:-1], WrongShape, "ranks of 1 bytes"),
        (HEADER, bits_of(4, 1, 0, 3, 2) + b"\0", WrongShape, r"layers of \[5\] edges need 2"),
        (HEADER, b"", WrongShape, "ranks of 0 bytes"),
        (HEADER, np.arange(5, dtype="<i4").tobytes(), WrongShape, "ranks of 20 bytes"),
        (b"", bits_of(4, 1, 0, 3, 2), WrongShape, "header for None"),
        (UpdateHeader().SerializeToString() + b"\x0a\x00", bits_of(4, 1, 0, 3, 2), WrongShape, "header for fedavg"),
        (HEADER + b"\x7a\x00", bits_of(4, 1, 0, 3, 2), WrongShape, "unknown fields"),
        (
            UpdateHeader(frl=FrlUpdate(entropy=[True], top=1.0)).SerializeToString(),
            b"",
            OutsideLaw,
            r"layers \[0\] .*takes \[\]",
        ),
        (UpdateHeader(frl=FrlUpdate(entropy=[False], top=0.5)).SerializeToString(), b"", OutsideLaw, "share of 0.5"),
        (UpdateHeader(frl=FrlUpdate(top=1.0)).SerializeToString(), b"", OutsideLaw, "this run takes"),
    ],
)
def test_law_of_updates(header: bytes, body: bytes, error: type[RejectedUpdate], says: str) -> None:
    codec = registry.codec("frl", Settings())
    with pytest.raises(error, match=says):
        codec.decode_update(Payload(header, Bytes(body)), FIVE)
    sound = codec.decode_update(Payload(HEADER, Bytes(bits_of(4, 1, 0, 3, 2))), FIVE)
    assert [one.tolist() for one in sound.ranks] == [[4, 1, 0, 3, 2]]


def test_mutated_bytes_are_refused_or_still_a_permutation() -> None:
    rng = stream(8, "mutate")
    codec = registry.codec("frl", Settings())
    sound = codec.encode_update(vote_of(drawn(rng, TWO)))
    body = bytes(sound.body.read(0, sound.body.size))
    refused = 0
    for at in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises((NotPermutation, WrongShape)):  # one flipped bit names another rank, or fills a zero
            codec.decode_update(Payload(sound.header, Bytes(bytes(flipped))), TWO)
        refused += 1
    assert refused == 8 * sum(packed_bytes(layer.edges, width(layer.edges)) for layer in layers_of(TWO, "FRL"))


GOOD: dict[str, Any] = {
    "keep": 0.5, "local_epochs": 1, "batch_size": 8, "learning_rate": 0.4, "decay": 0.999, "momentum": 0.9, "round": 1,
    "entropy": [False], "top": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": 0.0},
        {"keep": 1.1},
        {"local_epochs": 0},
        {"batch_size": 0},
        {"learning_rate": float("nan")},
        {"decay": 0.0},
        {"decay": 1.5},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"seed": 1 << 63},
        {"round": 0},
        {"round": 1_000_001},
        {"top": 0.0},
        {"top": 1.5},
        {"top": float("nan")},
    ],
)
def test_device_refuses_orders_outside_the_law(wrong: dict[str, Any]) -> None:
    codec = registry.codec("frl")
    body = Bytes(bits_of(4, 1, 0, 3, 2))
    with pytest.raises(OutsideLaw):
        codec.decode_order(Payload(TaskHeader(frl=FrlTask(**(GOOD | wrong))).SerializeToString(), body), FIVE)
    header = TaskHeader(frl=FrlTask(**GOOD)).SerializeToString()
    assert codec.decode_order(Payload(header, body), FIVE).training.momentum == 0.9
    with pytest.raises(NotPermutation):
        codec.decode_order(Payload(header, Bytes(bits_of(4, 4, 0, 3, 2))), FIVE)


def test_order_carries_the_plan_and_the_round() -> None:
    how = {"keep": 0.25, "local_epochs": 3, "batch_size": 7, "learning_rate": 0.5, "decay": 0.5, "momentum": 0.25}
    server = registry.server_side("frl", convert(how, Settings, "test"), TWO, 99)
    order = server.open(server.start(Vector.of(np.zeros(TWO.size, np.float32))), Cohort(4, ("a",)))
    back = registry.codec("frl").decode_order(registry.codec("frl").encode_order(order), TWO)
    assert (back.training, back.seed, back.round) == (convert(how, Training, "test"), 99, 4)
    assert [one.tolist() for one in back.ranks] == [scores_of(99, 0, 15, 5)[1].tolist(), scores_of(99, 1, 12, 6)[1].tolist()]


def test_settings_refuse_a_majority_of_liars() -> None:
    Settings(liars=2).check(5)
    with pytest.raises(ConfigError, match=r"liars = 2 of 4 votes.*at least 5"):
        Settings(liars=2).check(4)


# A run.

PLAN = """
[run]
name = "votes"
rounds = 6
task = "digits"
seed = 3
[cohort]
size = 4
quorum = 4
over_select = 1.0
[evaluation]
every = 6
[method]
name = "frl"
"""


def test_a_run_on_the_digits_learns_and_repeats() -> None:
    net = {"hidden": [128], "bias": False}
    plan, settings = parse_plan(PLAN, registry.method)
    fleet = engine.VirtualFleet(
        "edgehold.attacks.eval.data:make_task",
        {"dataset": "digits", "model": "mlp", "net": net, "partition": "iid", "limit": 150},
        4,
    )
    first = engine.run(plan, settings, fleet, fleet.own_copy())
    assert first.rejected == {}
    assert first.rounds[-1]["accuracy"] > 0.75
    assert set(first.rounds[-1]) <= set(FACTS)
    sizes = np.unique(np.abs(first.model.whole()))
    assert len(sizes) == 3, "zero and one size per layer"
    # Asked to train clients together, it trains them one by one: the optimiser is the method's own.
    again = engine.run(plan, settings, fleet, fleet.own_copy(), batch=True)
    assert again.digest == first.digest
    assert again.rounds[0]["clients_batched"] == 0
