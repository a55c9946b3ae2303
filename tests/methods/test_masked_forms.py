"""What methods sum under masks, and what they make of the sums: the same as of single updates where nothing is lost."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from statistics import median
from typing import Any

import numpy as np
import pytest

from edgehold.core.contract import Cohort, Weighted
from edgehold.core.errors import ConfigError, OutsideLaw, WrongShape
from edgehold.core.masks.combine import Blend, exact
from edgehold.core.masks.sizing import sized
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import Terms
from edgehold.core.plan import MasksTable, parse_plan
from edgehold.core.rng import stream
from edgehold.core.vectors import Array, MemorySpace, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Update as Change
from edgehold.defenses.frl.sorting import inverse
from edgehold.defenses.frl.state import Update as Ranks
from edgehold.defenses.hidenseek.packing import pack_bits
from edgehold.defenses.hidenseek.server import voters_of
from edgehold.defenses.hidenseek.state import Update as Signs
from edgehold.defenses.hidenseek.state import kept_weights, weights_of
from edgehold.defenses.layers import layers_of

SIZES = [
    Schema((Tensor("a", (2, 2)),)),
    Schema((Tensor("a", (1, 1)), Tensor("b", (3, 5)), Tensor("c", (2, 3, 2, 1)))),
    Schema((Tensor("a", (301, 7)), Tensor("b", (1, 1)), Tensor("c", (2, 500)))),
    Schema((Tensor("a", (700, 400)),)),  # more than one block
]


def terms_of(name: str, settings: Any, schema: Schema, **wish: Any) -> Terms:
    form = registry.masked(name)
    found = sized(MasksTable(**wish), form.entries(settings, schema), form.largest(settings, schema))
    return Terms("lab", bytes(32), "run", 1, 1, bytes(32), bytes(32), bytes(32), **asdict(found))


def summed(name: str, schema: Schema, terms: Terms, updates: Sequence[Any], cuts: Sequence[int]) -> list[GroupSum]:
    """The lawful sums of the updates in groups that end at `cuts`."""
    form, groups = registry.masked(name).form(schema, terms), []
    for first, last in zip((0, *cuts), (*cuts, len(updates)), strict=True):
        total = np.zeros(terms.entries, np.int64)
        for update in updates[first:last]:
            total += np.concatenate(list(form.vector(update)))
        clients = tuple(f"c{number:03}" for number in range(first, last))
        found = GroupSum(clients, total.astype(terms.dtype), terms.margin)
        form.law(found.blocks(), last - first)
        groups.append(found)
    return groups


def ranks(schema: Schema, count: int, seed: int = 0) -> list[Ranks]:
    """Votes that agree enough to tie now and then."""
    rng, found = stream(seed, "masked ranks"), []
    layers = layers_of(schema, "FRL")
    for _ in range(count):
        each = [np.lexsort((rng.random(one.edges), np.arange(one.edges) // 3)) for one in layers]
        found.append(Ranks(tuple(inverse(order) for order in each), (False,) * len(layers)))
    return found


def signs(schema: Schema, count: int, keep: float, seed: int = 0) -> list[Signs]:
    rng = stream(seed, "masked signs")
    return [Signs(Vector.of(pack_bits(rng.random(kept_weights(keep, schema)) < 0.5))) for _ in range(count)]


def pruned(schema: Schema, keep: float, seed: int) -> Vector:
    """First weights as HideNseek's pruning leaves them."""
    mask = np.zeros(schema.size, dtype=bool)
    mask[stream(seed, "mask").permutation(schema.size)[: kept_weights(keep, schema)]] = True
    return Vector.of(weights_of(seed, layers_of(schema, "HideNseek"), mask))


def packed(server: Any, state: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    found = server.pack(state)
    return {name: bytes(blob.read(0, blob.size)) for name, blob in found.blobs.items()}, dict(found.scalars)


def both(
    name: str, settings: Any, schema: Schema, updates: Sequence[Any], cuts: Sequence[int], first: Vector, **wish: Any
) -> tuple[Any, Any, Any, dict[str, float], dict[str, float]]:
    """(server, state by close, state by fold, facts, facts) after the same updates."""
    server: Any = registry.server_side(name, settings, schema, 3)
    state = server.start(first)
    weighted = [Weighted(f"c{number:03}", 1.0, one) for number, one in enumerate(updates)]
    plain, facts = server.close(state, weighted, MemorySpace())
    terms = terms_of(name, settings, schema, **wish)
    groups = summed(name, schema, terms, updates, cuts)
    folded, more = server.fold(state, groups, terms, Blend(), MemorySpace())
    return server, plain, folded, facts, more


@pytest.mark.parametrize("schema", SIZES, ids=lambda schema: str(schema.size))
@pytest.mark.parametrize(("count", "cuts"), [(1, ()), (2, ()), (17, ()), (20, (9,)), (32, (9, 10, 21))])
def test_votes_in_fewer_than_five_groups_give_the_same_state_as_single_ones(
    schema: Schema, count: int, cuts: tuple[int, ...]
) -> None:
    settings = registry.method("frl").settings(liars=0)
    zero = Vector.of(np.zeros(schema.size, np.float32))
    server, plain, folded, facts, more = both("frl", settings, schema, ranks(schema, count), cuts, zero)
    assert packed(server, plain) == packed(server, folded)
    assert facts == more
    for keep in (1.0, 0.3):
        settings = registry.method("hidenseek").settings(keep=keep)
        found = both("hidenseek", settings, schema, signs(schema, count, keep), cuts, pruned(schema, keep, 3))
        assert packed(found[0], found[1]) == packed(found[0], found[2])
        assert found[3] == found[4]
        assert found[2].voters == count


def test_medians_of_votes_are_compared_without_rounding() -> None:
    """Groups of many sizes: means such as 1/3 + 2/3 and 1/2 + 1/2 are one number, and the edge id decides."""
    rng = stream(1, "oracle")
    for case in range(60):
        sizes = [int(one) for one in rng.integers(1, 64 if case % 2 else 7, size=int(rng.integers(5, 9)))]
        top = 1 << 31 if case % 3 == 0 else 4
        sums = [rng.integers(0, size * top, size=30) for size in sizes]
        groups = [GroupSum(tuple(map(str, range(size))), one.astype("<u8")) for size, one in zip(sizes, sums, strict=True)]
        for how in ("median", "trimmed"):
            found, whole = exact(groups, 0, 30, how, 0.2)
            for edge in range(30):
                means = sorted(Fraction(int(one[edge]), size) for one, size in zip(sums, sizes, strict=True))
                cut = len(means) // 5
                wanted = median(means) if how == "median" else sum(means[cut : len(means) - cut]) / (len(means) - 2 * cut)
                assert Fraction(int(found[edge]), whole) == wanted
    # Denominators beyond int64 were among them, or this would be no test of them.
    sizes = [61, 59, 53, 47, 43, 41, 37, 31]
    large = [GroupSum(tuple(map(str, range(size))), np.array([size << 31, 1], "<u8")) for size in sizes]
    assert exact(large, 0, 2)[0].dtype == object


def test_rankings_of_five_groups_by_hand() -> None:
    """One layer of three edges. Means of four groups: (0, 1, 2), of the spoilt one (2, 1, 0): the median is (0, 1, 2)."""
    schema = Schema((Tensor("a", (3, 1)),))
    settings = registry.method("frl").settings()
    server: Any = registry.server_side("frl", settings, schema, 3)
    state, terms = server.start(Vector.of(np.zeros(3, np.float32))), terms_of("frl", settings, schema)
    assert (terms.entries, terms.largest, terms.bits) == (3, 2, 8)
    good, bad = [np.array([0, 8, 16])] * 4, [np.array([16, 8, 0])]

    def order(sums: list[Array], how: Any = "median") -> list[int]:
        groups = [GroupSum(tuple("abcdefgh"), one.astype("<u1")) for one in sums]
        after, _ = server.fold(state, groups, terms, Blend(how, 0.2), MemorySpace())
        return [int(rank) for rank in server.open(after, Cohort(2, ("a",))).ranks[0]]

    assert order(good + bad) == order(good + bad, "trimmed") == [0, 1, 2]
    assert order(bad * 4 + good[:1]) == [2, 1, 0]
    # Equal medians: the smaller edge id ranks lower, as everywhere.
    assert order([np.array([8, 8, 8])] * 5) == [0, 1, 2]


def test_ranks_rank_the_same_with_numbers_beyond_int64() -> None:
    schema = Schema((Tensor("a", (3, 4)),))
    settings = registry.method("frl").settings()
    server: Any = registry.server_side("frl", settings, schema, 3)
    state, terms = server.start(Vector.of(np.zeros(12, np.float32))), terms_of("frl", settings, schema, group_most=64)
    sizes = [64, 63, 61, 59, 53, 47, 43, 41, 37, 31, 29, 23]
    votes = ranks(schema, sum(sizes))
    groups = summed("frl", schema, terms, votes, np.cumsum(sizes)[:-1].tolist())
    assert exact(groups, 0, 12)[0].dtype == object
    after, _ = server.fold(state, groups, terms, Blend(), MemorySpace())
    means = [[Fraction(int(n), len(one.survivors)) for n in one.read(0, 12)] for one in groups]
    middles = [median(column) for column in zip(*means, strict=True)]
    wanted = inverse(np.array(sorted(range(12), key=lambda edge: (middles[edge], edge))))
    assert server.open(after, Cohort(2, ("a",))).ranks[0].tolist() == wanted.tolist()


def test_counts_of_five_groups_are_the_nearest_and_keep_their_side() -> None:
    rng = stream(2, "voters")
    for whole, voters in ((12, 41), (12, 40), (2 * 21840, 77), (1 << 60, 65535), (2, 1)):
        shares = np.unique(np.append(rng.integers(0, whole, size=50), [0, whole // 2 - 1, whole // 2, whole // 2 + 1, whole]))
        found = voters_of(shares, whole, voters)
        for share, count in zip(shares.tolist(), found.tolist(), strict=True):
            assert 0 <= count <= voters
            assert (2 * count >= voters) == (2 * share >= whole)
            assert abs(Fraction(share, whole) * voters - count) <= (Fraction(1, 2) if 2 * share >= whole else 1)
    assert voters_of(np.array([5, 6]), 12, 41).tolist() == [17, 21]  # 17.08; 20.5 counts up, and so keeps its sign
    assert voters_of(np.array([19]), 40, 20).tolist() == [9]  # 9.5 would round up to an even vote


def test_hidenseek_in_five_groups_ignores_one_that_swings() -> None:
    schema, keep = SIZES[2], 0.3
    settings = registry.method("hidenseek").settings(keep=keep, liars=1)
    server: Any = registry.server_side("hidenseek", settings, schema, 3)
    state, terms = server.start(pruned(schema, keep, 3)), terms_of("hidenseek", settings, schema)
    # Everybody agrees: whatever one group says, the median is what everybody said.
    groups = summed("hidenseek", schema, terms, signs(schema, 1, keep) * 40, (8, 16, 24, 32))
    honest, facts = server.fold(state, groups, terms, Blend(), MemorySpace())
    assert honest.voters == 40
    assert "signs_contested" not in facts
    swung = GroupSum(groups[2].survivors, (8 - groups[2].read(0, terms.entries)).astype(terms.dtype))
    spoilt = [*groups[:2], swung, *groups[3:]]
    assert packed(server, server.fold(state, spoilt, terms, Blend(), MemorySpace())[0]) == packed(server, honest)
    # Among four it moves the sum: 24 votes against 8, which another such group would make even.
    moved, told = server.fold(state, spoilt[1:], terms, Blend(), MemorySpace())
    assert server.weights(moved, MemorySpace()).whole().tolist() == server.weights(honest, MemorySpace()).whole().tolist()
    assert told["signs_contested"] == 1.0
    assert server.fold(state, groups[1:], terms, Blend(), MemorySpace())[1]["signs_contested"] == 0.0


def test_a_liar_of_few_groups_reaches_as_far_as_its_group() -> None:
    schema = Schema((Tensor("a", (6, 1)),))
    settings = registry.method("frl").settings(liars=1)
    zero = Vector.of(np.zeros(6, np.float32))
    same = [Ranks((np.arange(6, dtype=np.int32),), (False,))] * 20
    *_, facts, more = both("frl", settings, schema, same, (10,), zero)
    # Across the cut votes differ by 20 for neighbours: single voters move 5, a liar in a group of ten up to 19 x 5.
    assert facts["edges_contested"] == 0.0
    assert more["edges_contested"] == 1.0


# The law of rankings.


def test_sums_of_rankings_with_another_total_are_refused() -> None:
    schema = SIZES[1]
    settings = registry.method("frl").settings()
    terms = terms_of("frl", settings, schema)
    form = registry.masked("frl").form(schema, terms)
    total = np.add.reduce([np.concatenate(list(form.vector(one))) for one in ranks(schema, 9)])
    form.law(iter([total]), 9)
    raised, moved = total.copy(), total.copy()
    raised[3] += 1  # in the second layer
    moved[3] += 1
    moved[-1] -= 1  # the total of all layers is right, that of two is not
    for bad in (raised, moved, total[:-1], np.append(total, 0)):
        with pytest.raises(OutsideLaw):
            form.law(iter([bad]), 9)


def test_forms_refuse_terms_and_updates_of_another_model() -> None:
    schema, other = SIZES[1], SIZES[2]
    for name in ("frl", "hidenseek", "fedavg", "dp_ef_sgd", "dp_sgd", "floral", "hyperfl"):
        settings, masked = registry.method(name).settings(), registry.masked(name)
        reals = name not in ("frl", "hidenseek")
        if name == "hyperfl":  # how large phi is, no schema tells
            terms = terms_of("fedavg", None, other, clip=1.0)
        else:
            terms = terms_of(name, settings, other, **({"clip": 1.0} if reals else {}))
            with pytest.raises(WrongShape):
                masked.form(schema, terms)
        with pytest.raises(WrongShape):
            masked.form(other, replace(terms, clip=0.0 if reals else 1.0))
    change = Change(Vector.of(np.zeros(5, np.float32)), 1)
    terms = terms_of("fedavg", None, other, clip=1.0)
    with pytest.raises(WrongShape, match="change of 5 values"):
        list(registry.masked("hyperfl").form(schema, terms).vector(change))
    rank_terms = terms_of("frl", None, schema)
    form = registry.masked("frl").form(schema, rank_terms)
    with pytest.raises(WrongShape, match="top edges alone"):
        list(form.vector(replace(ranks(schema, 1)[0], top=0.5)))
    with pytest.raises(WrongShape):
        list(form.vector(ranks(other, 1)[0]))
    keep = registry.method("hidenseek").settings(keep=0.3)
    sign_form = registry.masked("hidenseek").form(other, terms_of("hidenseek", keep, other))
    with pytest.raises(WrongShape, match="signs of"):
        list(sign_form.vector(signs(other, 1, 0.2)[0]))


# Reals.


@pytest.mark.parametrize(
    "how",
    [{}, {"server_momentum": 0.9}, {"server_learning_rate": 3.0, "server_momentum": 0.5}, {"client_momentum": 0.9}],
    ids=str,
)
@pytest.mark.parametrize(("count", "cuts"), [(1, ()), (16, ()), (40, (9, 18, 29))])
def test_fedavg_by_sums_is_fedavg_within_a_step_of_the_grid(how: dict[str, Any], count: int, cuts: Any) -> None:
    """Two rounds, so that the velocity of the first one works in the second."""
    schema, settings = SIZES[2], registry.method("fedavg").settings(**how)
    server: Any = registry.server_side("fedavg", settings, schema, 3)
    rng = stream(0, "changes")
    plain = folded = server.start(Vector.of(rng.standard_normal(schema.size).astype(np.float32)))
    terms = terms_of("fedavg", settings, schema, clip=1.0, bits=16)  # so coarse that float32 is forgotten beside it
    for _ in range(2):
        updates = [Change(Vector.of(rng.uniform(-1, 1, schema.size).astype(np.float32)), 7) for _ in range(count)]
        weighted = [Weighted(f"c{number:03}", 1.0, one) for number, one in enumerate(updates)]
        plain, _ = server.close(plain, weighted, MemorySpace())
        groups = summed("fedavg", schema, terms, updates, cuts)
        folded, facts = server.fold(folded, groups, terms, Blend(), MemorySpace())
        assert facts["step_norm"] > 0
    rate = settings.server_learning_rate
    # Three velocities' worth of a step, as coarse grids round up or down at random, and float32.
    within = 6 * rate * terms.grid.error(1) + 2.0**-18
    assert np.max(np.abs(plain.model.whole() - folded.model.whole())) <= within
    assert (plain.velocity is None) == (folded.velocity is None) == (settings.server_momentum == 0)
    if plain.velocity is not None:
        assert np.max(np.abs(plain.velocity.whole() - folded.velocity.whole())) <= within


def test_changes_beyond_norm_and_clip_are_cut_on_the_device() -> None:
    schema = Schema((Tensor("a", (4,)),))
    terms = terms_of("fedavg", None, schema, clip=1.0, norm=2.0)
    form = registry.masked("fedavg").form(schema, terms)
    found = np.concatenate(list(form.vector(Change(Vector.of(np.array([30, 40, 0, 0], np.float32)), 1))))
    # Scaled to norm 2: (1.2, 1.6, 0, 0); cut to the clip of 1.
    assert terms.grid.decode(found, 1).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_whoever_survived_in_a_group_has_spent() -> None:
    schema = Schema((Tensor("a", (2, 2)),))
    settings = registry.method("dp_ef_sgd").settings()
    updates = [Change(Vector.of(np.full(4, 0.25, np.float32)), 1)] * 10
    zero = Vector.of(np.zeros(4, np.float32))
    server, plain, folded, facts, more = both("dp_ef_sgd", settings, schema, updates, (3,), zero, clip=1.0)
    assert dict(plain.rounds) == dict(folded.rounds) == {f"c{number:03}": 1 for number in range(10)}
    assert facts["epsilon_worst"] == more["epsilon_worst"] > 0
    groups = summed("dp_ef_sgd", schema, terms_of("dp_ef_sgd", settings, schema, clip=1.0), updates[:4], ())
    again, told = server.fold(folded, groups, terms_of("dp_ef_sgd", settings, schema, clip=1.0), Blend(), MemorySpace())
    assert again.rounds["c003"] == 2
    assert again.rounds["c004"] == 1
    assert told["epsilon_worst"] > told["epsilon_median"]


# Plans.

PLAN = """
[run]
name = "masks"
rounds = 1
task = "t"
[cohort]
size = 16
quorum = 16
[weights]
by = "equal"
[privacy]
masked = true
[method]
name = "{name}"
{method}
"""


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("frl", ""), ("frl", "liars = 3\ncoding = 'entropy'"), ("hidenseek", ""), ("hyperfl", ""), ("dp_ef_sgd", ""),
        ("hyperfl", "noise_multiplier = 1.0"), ("dp_sgd", ""), ("floral", ""),
        ("fedavg", "server_momentum = 0.9\nclient_momentum = 0.5"),
    ],
)  # fmt: skip
def test_plans_whose_updates_can_be_summed(name: str, method: str) -> None:
    plan, settings = parse_plan(PLAN.format(name=name, method=method), registry.method)
    assert plan.privacy.masked
    # A device, which knows no settings, must not think that the method can never be masked.
    assert registry.method(name).needs(None).individual_updates == ""
    assert isinstance(settings, registry.method(name).settings)


@pytest.mark.parametrize(
    ("name", "method", "why"),
    [
        ("frl", 'upload = "top"', "totals of a sum depend on the share"),
        ("bristle", "", "devices read each other's heads one by one"),
        ("fedpca", "", "remembers by name"),
        ("noise_robust_admm", "", "remembers by name"),
        ("noise_robust_admm", 'form = "rerce"', "median of what single devices say"),
        ("dp_fedavg", "", "server half clips each of them"),
        *((name, 'rule = "median"', "compares them") for name in ("fedavg", "hyperfl", "dp_ef_sgd", "dp_sgd", "floral")),
        *((name, "clip_norm = 1.0", "has the server clip") for name in ("fedavg", "hyperfl", "dp_ef_sgd", "dp_sgd", "floral")),
    ],
)
def test_plans_whose_server_needs_single_updates(name: str, method: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"needs single updates: .*{why}") as refused:
        parse_plan(PLAN.format(name=name, method=method), registry.method)
    assert refused.value.field == "privacy.masked"


def test_every_method_says_whether_it_can_be_summed() -> None:
    for name in registry.names():
        method = registry.method(name)
        if method.needs(method.settings()).individual_updates:
            continue
        assert callable(registry.masked(name).form)
        assert hasattr(registry.server_side(name, method.settings(), _schema(name), 1), "fold")
    for name in ("bristle", "fedpca", "noise_robust_admm", "dp_fedavg"):
        with pytest.raises(ConfigError, match="cannot be summed"):
            registry.masked(name)


def _schema(name: str) -> Schema:
    if name == "floral":
        from edgehold.client.data.kernel import make_task

        return make_task(device_index=0, devices=5, limit=9).schema
    return Schema((Tensor("a.weight", (3, 5)), Tensor("b.weight", (2, 3)))) if name == "hyperfl" else SIZES[1]


@pytest.mark.parametrize("name", ["dp_ef_sgd", "dp_sgd"])
def test_noise_is_brought_along_once(name: str) -> None:
    text = PLAN.format(name=name, method="") + "[masks]\nnorm = 1.0\nnoise_multiplier = 1.0\n"
    with pytest.raises(ConfigError, match="noise of their own") as refused:
        parse_plan(text, registry.method)
    assert refused.value.field == "masks.noise_multiplier"


@pytest.mark.parametrize(
    ("name", "wish", "field"),
    [
        ("fedavg", {}, "masks.clip"),
        ("frl", {"clip": 1.0}, "masks.clip"),
        ("hidenseek", {"norm": 1.0}, "masks.norm"),
        ("frl", {"norm": 1.0, "noise_multiplier": 1.0}, "masks.norm"),
        ("hidenseek", {"noise_multiplier": 1.0}, "masks.noise_multiplier"),
        ("fedavg", {"clip": 1.0, "norm": 1.0, "noise_multiplier": 50.0, "bits": 8}, "masks.bits"),
    ],
)
def test_sizes_that_cannot_be(name: str, wish: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        terms_of(name, registry.method(name).settings(), SIZES[2], **wish)
    assert refused.value.field == field


def test_models_too_large_for_a_masked_sum_are_refused() -> None:
    large = Schema((Tensor("a", (1 << 12, 1 << 13)),))  # 2^25 edges of 32 bits: 128 MiB
    for name, wish in (("frl", {}), ("fedavg", {"clip": 1.0})):
        with pytest.raises(ConfigError, match="at most 64 MiB") as refused:
            terms_of(name, registry.method(name).settings(), large, **wish)
        assert refused.value.field == "masks.bits"
    wide = Schema((Tensor("a", (1 << 14, 1 << 14)),))  # 2^28 ranks x 32 members do not fit in 32 bits
    with pytest.raises(ConfigError) as refused:
        terms_of("frl", None, wide)
    assert refused.value.field == "masks.group_most"


def test_widths_of_votes() -> None:
    """Ranks up to 1624 in groups of 32 take 16 bits, signs 8."""
    schema = SIZES[2]
    assert terms_of("frl", None, schema).bits == 32  # 32 x 2106 + 1 > 2^16
    assert terms_of("frl", None, schema, group_most=31).bits == 16
    assert terms_of("hidenseek", registry.method("hidenseek").settings(), schema).bits == 8
