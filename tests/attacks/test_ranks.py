"""Lies in rankings: worked by hand, always permutations, through the protocol; and that they do what they are for."""

import itertools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.byzantine import ranks
from edgehold.attacks.byzantine.ranks import LIES, Sight
from edgehold.attacks.eval.conspiracies import Ranks
from edgehold.attacks.eval.data import make_task
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.contract import Adversary
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.vectors import Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Order as FedAvgOrder
from edgehold.defenses.baselines.fedavg.state import Training as FedAvgTraining
from edgehold.defenses.frl.server import count
from edgehold.defenses.frl.sorting import inverse, sorted_places
from edgehold.defenses.frl.state import Order, Ranking, Training, Update, scores_of
from edgehold.defenses.layers import layers_of
from edgehold.server import engine

NET: dict[str, Any] = {"hidden": [9], "bias": False}


def ranking(*edges: int) -> Ranking:
    return np.array(edges, dtype=np.int32)


def listed(values: Any) -> Ranking:
    return sorted_places(values).astype(np.int32)


def voted(lists: list[Ranking]) -> Ranking:
    """The edges as these lists together rank them."""
    return listed(count([[inverse(one)] for one in lists], 0, len(lists[0])))


SIX = ranking(0, 1, 2, 3, 4, 5)


def alone(votes: int = 4, cap: int | None = None) -> Sight:
    """One liar among `votes`, six edges, three of them kept. It expects (votes - 1) times its own ranks 0..5."""
    return Sight(SIX, [SIX], votes, 3, cap)


def test_lies_by_hand() -> None:
    assert ranks.reverse(alone()).tolist() == [5, 4, 3, 2, 1, 0]
    assert ranks.swap_half(alone()).tolist() == [3, 4, 5, 0, 1, 2]
    assert ranks.swap_half_reverse(alone()).tolist() == [5, 4, 3, 0, 1, 2]
    # Expected votes 0, 3, .. 15; the cut at 9; reach 1 x 5: edges 2 (6), 3 (9) and 4 (12).
    assert alone().band(SIX).tolist() == [False, False, True, True, True, False]
    assert ranks.band(alone()).tolist() == [3, 4, 0, 1, 5, 2]
    assert ranks.vem(alone()).tolist() == [0, 1, 4, 3, 2, 5]
    # One edge on either side of the cut: 2 and 3.
    assert ranks.vem(alone(cap=1)).tolist() == [0, 1, 3, 2, 4, 5]
    assert ranks.vem(alone(cap=0)).tolist() == SIX.tolist()
    # Among a hundred votes nothing is in reach but the edge at the cut itself.
    assert ranks.vem(alone(votes=100)).tolist() == SIX.tolist()


def test_colluders_keep_their_own_ranks_and_reverse_the_common_order() -> None:
    # Ranks 0 1 2 3 and 1 0 2 3; expected (1, 1, 4, 6) x (4 / 2 - 1); the cut at 4, reach 2 x 3: everything.
    one, two = ranking(0, 1, 2, 3), ranking(1, 0, 2, 3)
    sight = Sight(two, [one, two], 4, 2)
    assert sight.expected().tolist() == [1, 1, 4, 6]
    assert ranks.vem(sight).tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(("edges", "dropped"), [(1, 0), (2, 1), (7, 3), (40, 0), (40, 39), (65, 20)])
def test_every_lie_is_a_permutation(lie: str, edges: int, dropped: int) -> None:
    rng = stream(1, "lies", edges, dropped)
    known = [rng.permutation(edges).astype(np.int32) for _ in range(3)]
    for cap in (None, 2):
        for votes in (3, 10, 1000):
            found = LIES[lie](Sight(known[1], known, votes, dropped, cap))
            assert found.dtype == np.int32
            assert sorted(found.tolist()) == list(range(edges))


def test_vem_is_the_best_permutation_of_its_band() -> None:
    rng = stream(2, "best")
    for _ in range(5):
        own = rng.permutation(6).astype(np.int32)
        sight = Sight(own, [own], 3, 3)
        agreed = sight.agreed()
        band, expected = agreed[sight.band(agreed)], sight.expected()
        places = inverse(own)[band]
        best = min(float((expected[band] * np.array(p)).sum()) for p in itertools.permutations(places.tolist()))
        assert float((expected[band] * inverse(ranks.vem(sight))[band]).sum()) == best


def test_lies_near_the_cut_flip_more_of_the_mask_than_reversal() -> None:
    # 200 edges that ten voters rank nearly alike, ten times over; the two liars know only each other.
    n, voters, liars = 200, 10, 2
    flipped = dict.fromkeys(LIES, 0)
    for draw in range(10):
        rng = stream(3, "flips", draw)
        lists = [listed((np.arange(n) + rng.normal(0, 10, n)).astype(np.float32)) for _ in range(voters)]
        honest = set(voted(lists)[n // 2 :].tolist())
        for lie, tell in LIES.items():
            lies = [tell(Sight(lists[i], lists[:liars], voters, n // 2)) for i in range(liars)]
            after = voted([*lists[liars:], *lies])[n // 2 :]
            flipped[lie] += len(honest - set(after.tolist()))
    assert flipped["band"] > 3 * flipped["reverse"] > 0
    assert flipped["press"] >= flipped["band"]
    # Near the cut VEM in closed form is a reversal: each liar keeps the ranks it has there, so it cannot push harder.
    assert 0 < flipped["vem"] <= 2 * flipped["reverse"]


@dataclass(frozen=True)
class AllKnowing(Sight):
    """Knows the votes of everybody else."""

    others: Any = None

    def expected(self) -> Any:
        return self.others

    def agreed(self) -> Ranking:
        return listed(self.others)


def test_the_closed_form_of_vem_is_not_the_one_that_flips_most() -> None:
    """Brute force over all permutations of five edges: `press` comes near the best, `vem` and `reverse` do not."""
    n, voters, cut = 5, 4, 3
    total = dict.fromkeys(("best", "vem", "reverse", "press"), 0)
    for draw in range(40):
        rng = stream(5, "best flips", draw)
        ranks_ = [inverse(listed((np.arange(n) + rng.normal(0, 1.5, n)).astype(np.float32))) for _ in range(voters)]
        others = np.sum(ranks_[1:], axis=0)
        honest = set(listed(others + ranks_[0])[cut:].tolist())

        def flips(lie: Any, others: Any = others, honest: Any = honest) -> int:
            return len(honest - set(listed(others + np.asarray(lie))[cut:].tolist()))

        sight = AllKnowing(inverse(ranks_[0]), [inverse(ranks_[0])], voters, cut, None, others)
        total["best"] += max(flips(one) for one in itertools.permutations(range(n)))
        for lie in ("vem", "reverse", "press"):
            total[lie] += flips(inverse(LIES[lie](sight)))
    assert total["best"] >= total["press"] > max(total["vem"], total["reverse"])


def test_press_flips_all_that_the_cap_allows() -> None:
    """Two of ten who know the others' votes: every edge within the cap crosses the cut, where reversal moves hardly any."""
    n, voters, liars = 200, 10, 2

    def flips(lie: str, draw: int, cap: int | None) -> int:
        rng = stream(3, "flips", draw)
        lists = [listed((np.arange(n) + rng.normal(0, 10, n)).astype(np.float32)) for _ in range(voters)]
        others = np.sum([inverse(one).astype(np.int64) for one in lists[liars:]], axis=0)
        honest = set(listed(others)[n // 2 :].tolist())
        lies = [LIES[lie](AllKnowing(lists[i], lists[:liars], voters, n // 2, cap, others)) for i in range(liars)]
        return len(honest - set(voted([*lists[liars:], *lies])[n // 2 :].tolist()))

    for cap in (5, 20):
        assert [flips("press", draw, cap) for draw in range(5)] == [cap] * 5
    for draw in range(5):
        assert flips("press", draw, None) > 20 > 10 * flips("reverse", draw, None)
        assert flips("vem", draw, None) <= 1


# Through the protocol.


def order_of(task: Any) -> Order:
    lists = [scores_of(1, n, layer.edges, layer.fan_in)[1] for n, layer in enumerate(layers_of(task.schema, "FRL"))]
    return Order(1, 1, lists, Training(local_epochs=1), (False,) * len(lists))


def sent(adversary: Adversary, index: int = 0) -> tuple[Update, Update]:
    """(honest, lie) of one client."""
    task = make_task("digits", index, 4, limit=9, model="mlp", net=NET)
    honest, client = registry.client_side("frl"), f"c{index}"
    liar, order = adversary(honest, client), order_of(task)
    local = liar.load(liar.dump(liar.begin(order, task, stream(0))))
    true: Update = honest.work(order, None, task, stream(0, client))[1]
    lie: Update = liar.work(order, local, task, stream(0, client))[1]
    return true, lie


def test_a_single_liar_reverses_its_own_vote() -> None:
    true, lie = sent(ranks.make())
    assert [one.tolist() for one in lie.ranks] == [(len(one) - 1 - one).tolist() for one in true.ranks]


def test_colluders_share_a_folder(tmp_path: Path) -> None:
    out: dict[int, tuple[Update, Update]] = {}

    def collude(index: int) -> None:
        out[index] = sent(ranks.make("reverse", str(tmp_path / "new"), colluders=2, wait_s=20.0), index)

    threads = [threading.Thread(target=collude, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at in range(2):
        both = [out[index][0].ranks[at] for index in range(2)]
        expected = inverse(voted([inverse(one) for one in both])[::-1]).tolist()
        assert out[0][1].ranks[at].tolist() == out[1][1].ranks[at].tolist() == expected


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"lie": "revers"}, 'did you mean "reverse"'),
        ({"colluders": 2}, "set folder"),
        ({"colluders": 9}, "colluders = 9 of cohort = 8"),
        ({"lie": "vem", "cap": -1}, "cap = -1"),
    ],
)
def test_impossible_liars_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ranks.make(**wrong)


def test_methods_without_rankings_are_refused() -> None:
    liar = ranks.make()(registry.client_side("fedavg"), "a")
    order = FedAvgOrder(Vector.of(np.zeros(3, np.float32)), FedAvgTraining(), 0)
    with pytest.raises(ConfigError, match="has none. Use it with method frl"):
        liar.work(order, None, SyntheticTask(3, 1.0), stream(0))


def test_conspirators_and_colluders_send_the_same(tmp_path: Path) -> None:
    """The seam of the engine and the folder give one result when everybody has told everybody else in time."""
    text = """
        [run]
        name = "plot"
        rounds = 1
        task = "digits"
        [cohort]
        size = 4
        quorum = 4
        [method]
        name = "frl"
        local_epochs = 1
    """
    plan, settings = parse_plan(text, registry.method)
    tasks = {f"c{i}": make_task("digits", i, 4, limit=9, model="mlp", net=NET) for i in range(4)}
    plotted = engine.run(plan, settings, tasks, conspiracy=Ranks(frozenset({"c0"}), "vem"))
    liar = {"c0": ranks.make("vem", cohort=4)}
    assert engine.run(plan, settings, tasks, adversaries=liar).digest == plotted.digest
    assert engine.run(plan, settings, tasks).digest != plotted.digest
