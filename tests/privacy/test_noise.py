"""The rounded Gaussian: its law in samples and in exact arithmetic, and sources that never repeat themselves."""

import copy
import os
import pickle
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, localcontext

import numpy as np
import pytest
from scipy import stats
from tests.support.fixed_noise import FixedNoise

from edgehold.core import kernels
from edgehold.core.privacy import noise, rounded
from edgehold.core.privacy.noise import KeyedNoise, Noise, SystemNoise, gap
from edgehold.core.vectors import Array

DRAWS = 2_000_000
ALARM = 1e-9
"""Chance with which one check of `accused` accuses a sound sampler, up to a factor of two where it takes sums of powers for
normal; there are 31 of them, so that all together accuse it in less than one of 10^7 calls. With 2e6 draws they see a variance
off by 0.7 % (7 times the error sqrt(2 / draws)) or a mean off by 0.005 deviations.
"""


@pytest.fixture(params=["kernels", "numpy"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setenv(kernels.SWITCH, "off")
    elif kernels.loaded() is None:
        pytest.skip("the kernels are not compiled here: no C compiler when the package was installed")


# Samples.


def normal(value: float, deviation: float) -> float:
    """Chance of a value as far from 0 or farther."""
    return float(2 * stats.norm.sf(abs(value) / deviation))


def even(found: Array, chances: Array) -> float:
    """Chance of counts as uneven as these or worse."""
    expected = found.sum() * chances
    assert expected.min() > 100
    return float(stats.chi2.sf(((found - expected) ** 2 / expected).sum(), len(found) - 1))


def chances_of(x: Array) -> Iterator[tuple[str, float]]:
    """Named checks of values that should be those of the law, each with the chance of values as odd as these."""
    n, z = len(x), x / rounded.DEVIATION
    yield "mean", normal(z.mean(), n**-0.5)
    yield "variance", normal((z**2).mean() - 1, (2 / n) ** 0.5)
    yield "third moment", normal((z**3).mean(), (15 / n) ** 0.5)
    yield "kurtosis", normal((z**4).mean() - 3, (96 / n) ** 0.5)
    yield "signs", stats.binomtest(int((x < 0).sum()), n).pvalue
    for far in (2.0, 3.0, 4.0, 4.75):
        for side in (-1, 1):
            yield f"beyond {side * far}", stats.binomtest(int((side * z > far).sum()), n, stats.norm.sf(far)).pvalue
    # Cells of the sampler are 1/16 wide; quarters of them see the slope inside. The law's rounding is far below anything here.
    for width in (1 / 16, 1 / 64):
        edges = np.arange(-3, 3 + width / 2, width)
        chances = np.diff(stats.norm.cdf(np.concatenate([[-np.inf], edges, [np.inf]])))
        yield f"cells of {width}", even(np.bincount(np.searchsorted(edges, z), minlength=len(chances)), chances)
    for shift in (0, 8, 16, 20):
        yield f"bits from {shift}", even(np.bincount(x >> shift & 255, minlength=256), np.full(256, 1 / 256))
    for name, y in (("values", z), ("sizes", (z**2 - 1) / 2**0.5), ("parity", (x & 1) * 2.0 - 1)):
        for lag in (1, 2, 256, n // 2):
            yield f"{name} {lag} apart", normal((y[lag:] * y[:-lag]).sum(), (n - lag) ** 0.5)


def accused(x: Array) -> list[str]:
    """Names of the checks that such values fail."""
    return [name for name, chance in chances_of(x) if chance < ALARM]


def drawn(source: Noise) -> Array:
    """In four calls, so that the two halves come from different ones."""
    return np.concatenate([source.draw(DRAWS // 4) for _ in range(4)])


@pytest.mark.usefixtures("arithmetic")
def test_draws_follow_the_law() -> None:
    x = drawn(FixedNoise(1))
    assert not accused(x)
    assert abs((x / rounded.DEVIATION).var() - 1) < 0.01


def test_the_systems_noise_follows_the_law() -> None:
    assert not accused(drawn(SystemNoise()))


def test_as_many_checks_as_the_rate_of_false_alarms_counts() -> None:
    assert len(list(chances_of(drawn(FixedNoise(3))))) == 31


def without_acceptance(patch: pytest.MonkeyPatch) -> None:
    """Values equally likely all over a cell."""
    patch.setattr(rounded, "_SERIES", np.array([0.0] * 13 + [1.0]))


def with_cells_of_another_deviation(patch: pytest.MonkeyPatch) -> None:
    sums = np.exp(-(np.arange(rounded.CELLS) ** 2) / 512 / 1.02**2).cumsum()
    edges = np.minimum(sums / sums[-1] * 2.0**64, 2.0**64 - 2048).astype(np.uint64)
    edges[-1] = 2**64 - 1
    patch.setattr(rounded, "_EDGES", edges)
    patch.setattr(rounded, "_START", np.zeros(256, np.uint8))


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize(
    ("bug", "seen_by"), [(without_acceptance, "cells of 0.015625"), (with_cells_of_another_deviation, "variance")]
)
def test_bugs_in_the_sampler_are_seen(bug: Callable[[pytest.MonkeyPatch], None], seen_by: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        bug(patch)
        assert seen_by in accused(drawn(FixedNoise(1)))


@pytest.mark.parametrize(
    ("broken", "seen_by"),
    [
        (lambda x: (x * 1.02).astype(np.int64), "variance"),
        (lambda x: np.abs(x), "signs"),
        (lambda x: x + (rounded.DEVIATION >> 7), "mean"),
        (lambda x: np.where(np.abs(x) > 4 * rounded.DEVIATION, 0, x), "beyond 4.0"),
        (lambda x: np.where(np.arange(len(x)) % 50_000, x, 5 * rounded.DEVIATION), "beyond 4.75"),
        (lambda x: x & ~1, "bits from 0"),
        (lambda x: (x >> 12) << 12, "bits from 8"),
        (lambda x: np.tile(x[: len(x) // 2], 2), f"values {DRAWS // 2} apart"),
        (lambda x: np.where(np.arange(len(x)) % 2, x, np.roll(x, 1)), "parity 1 apart"),
    ],
)
def test_bugs_after_the_sampler_are_seen(broken: Callable[[Array], Array], seen_by: str) -> None:
    assert seen_by in accused(broken(drawn(FixedNoise(1))))


# The law in exact arithmetic.


def weight(size: int) -> Decimal:
    """Integral of exp(-(size + u)^2 / 2 s^2) over u from -1/2 to 1/2 by Boole's rule, whose error is below 2^-150 here."""
    points = ((-2, 7), (-1, 32), (0, 12), (1, 32), (2, 7))
    square = Decimal(rounded.DEVIATION) ** 2
    return sum((share * (-((size + Decimal(u) / 4) ** 2) / (2 * square)).exp() for u, share in points), Decimal(0)) / 90


def places() -> list[int]:
    """Integers at both ends and inside of many cells."""
    rng = np.random.default_rng(0)
    cells = [0, 1, 2, 15, 16, 17, 100, rounded.CELLS - 1]
    inside = [0, 1, rounded.CELL // 2, rounded.CELL - 1, *(int(v) for v in rng.integers(rounded.CELL, size=4))]
    return [cell * rounded.CELL + fine for cell in cells for fine in inside]


def test_acceptance_gives_the_rounded_gaussian() -> None:
    with localcontext(prec=80):
        scale = None
        for size in places():
            first = Decimal((size // rounded.CELL * rounded.CELL) ** 2)
            envelope = (-first / (2 * Decimal(rounded.DEVIATION) ** 2)).exp()
            found = Decimal(rounded.accepted_below(size)) * envelope / weight(size)
            scale = scale or found
            assert abs(found / scale - 1) < Decimal(2) ** -123, size
            assert rounded.accepted_below(size) < 1 << 159
        # Control: the discrete Gaussian is told apart.
        far = 10 * rounded.DEVIATION
        discrete = (-(Decimal(far) ** 2) / (2 * Decimal(rounded.DEVIATION) ** 2)).exp() / weight(far)
        assert Decimal("1e-19") < abs(discrete * weight(0) - 1) < Decimal("2.3e-19")


def test_thresholds_are_the_exact_sums() -> None:
    with localcontext(prec=120):
        chances = [(-Decimal(cell * cell) / 512).exp() for cell in range(rounded.CELLS)]
        total, so_far, off = sum(chances), Decimal(0), Decimal(0)
        for cell, chance in enumerate(chances):
            got = rounded.THRESHOLDS[cell] - (rounded.THRESHOLDS[cell - 1] if cell else 0)
            off += abs(Decimal(got) / 2**128 - chance / total)
            so_far += chance
            assert abs(rounded.THRESHOLDS[cell] - so_far / total * 2**128) <= Decimal("0.5000001"), cell
    assert rounded.THRESHOLDS[-1] == 1 << 128
    # What `gap` says: the table, conditioned on acceptance, and the tail that is left out.
    accepted = float(np.sqrt(np.pi / 2)) * 16 / float(total)
    assert accepted > 0.97
    assert float(off) / 2 / accepted < 2.0**-121
    assert 2 * stats.norm.sf(13) < 2.0**-125
    assert 0 < gap(1).distance <= 2 * 2.0**-120


def attempts_near_the_limit() -> Array:
    """Attempts whose 31 bits of chance are at, or next to, where acceptance ends; also with the last cells and places."""
    found = []
    for size in places():
        cell, fine = divmod(size, rounded.CELL)
        lower = rounded.THRESHOLDS[cell - 1] if cell else 0
        coarse = (lower + rounded.THRESHOLDS[cell]) // 2 >> 64
        limit = rounded.accepted_below(size) >> rounded.MORE_BITS
        for chance in range(limit - 2, limit + 3):
            if chance < 1 << 31:
                found += [(coarse, fine << 4 | 5, sign << 31 | chance) for sign in (0, 1)]
    return np.array(found, rounded.ATTEMPT)


@pytest.mark.usefixtures("arithmetic")
def test_quick_decisions_are_those_of_exact_arithmetic() -> None:
    """Each attempt by itself; undecided are at most two neighbours of the limit, zeros, and cells too rare for 64 bits."""
    counts = {"accepted": 0, "failed": 0, "open": 0}
    for attempt in attempts_near_the_limit():
        out = np.empty(1, np.int64)
        used, made, is_open = rounded.made(np.array([attempt]), out)
        place = int(attempt["coarse"]) << 64
        cell = sum(threshold <= place for threshold in rounded.THRESHOLDS)
        size, chance = cell * rounded.CELL + (int(attempt["fine"]) >> 4), int(attempt["last"]) & 0x7FFFFFFF
        limit = rounded.accepted_below(size)
        if is_open:
            assert (used, made) == (0, 0)
            near = abs(chance - (limit >> rounded.MORE_BITS)) <= 1
            assert near or size == 0 or int(attempt["coarse"]) in rounded._EDGES.tolist()
        elif made:
            assert chance + 1 << rounded.MORE_BITS <= limit
            assert out[0] == (-size if attempt["last"] >> 31 else size)
        else:
            assert used == 1
            assert chance << rounded.MORE_BITS >= limit
        counts["open" if is_open else "accepted" if made else "failed"] += 1
    assert min(counts.values()) > 50, counts


def further(*words: tuple[int, int]) -> Callable[[int], bytes]:
    """Random bytes to come, as (number, length)."""
    waiting = list(words)

    def more(size: int) -> bytes:
        value, length = waiting.pop(0)
        assert size == length
        return value.to_bytes(size, "little")

    return more


def one(coarse: int, fine: int, last: int) -> Array:
    found: Array = np.array([(coarse, fine << 4, last)], rounded.ATTEMPT)[0]
    return found


def test_open_attempts_by_hand() -> None:
    """Low word of the place first, then 128 bits of the chance; minus zero fails, or zero would be counted twice."""
    most = (1 << 128) - 1
    assert rounded.settled(one(0, 0, 0), further((0, 8), (0, 16))) == 0
    assert rounded.settled(one(0, 0, 1 << 31), further((0, 8), (0, 16))) is None
    assert rounded.settled(one(0, 1, 1 << 31), further((0, 8), (0, 16))) == -1
    # The largest numbers of all lie beyond every threshold but the last.
    assert rounded.settled(one((1 << 64) - 1, 3, 0), further(((1 << 64) - 1, 8), (0, 16))) == 207 * rounded.CELL + 3
    # A tie in the high word goes to either cell, as the low word says.
    high, low = divmod(rounded.THRESHOLDS[4], 1 << 64)
    assert rounded.settled(one(high, 0, 0), further((low - 1, 8), (0, 16))) == 4 * rounded.CELL
    assert rounded.settled(one(high, 0, 0), further((low, 8), (0, 16))) == 5 * rounded.CELL
    # The last chance that is accepted, and the first that is not.
    size = 9 * rounded.CELL + 12345
    coarse = rounded.THRESHOLDS[8] + 1 >> 64
    chance, more = divmod(rounded.accepted_below(size), 1 << 128)
    low = (rounded.THRESHOLDS[8] + 1) & (1 << 64) - 1
    assert 0 < more < most
    assert rounded.settled(one(coarse, 12345, chance), further((low, 8), (more - 1, 16))) == size
    assert rounded.settled(one(coarse, 12345, chance), further((low, 8), (more, 16))) is None
    assert rounded.settled(one(coarse, 12345, chance - 1), further((low, 8), (most, 16))) == size


@pytest.mark.usefixtures("arithmetic")
def test_open_attempts_find_their_place_among_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream in which every 50th attempt is a zero of either sign: half of them come out, each where it stands."""
    plain = np.frombuffer(os.urandom(16 * 5000), rounded.ATTEMPT)
    stream = np.array([(r["coarse"], r["fine"], r["last"]) for r in plain], rounded.ATTEMPT)
    stream[::50] = [(7, 0, (i % 2) << 31) for i in range(100)]
    others = np.empty(5000, np.int64)
    kept = rounded.made(np.delete(stream, np.arange(0, 5000, 50)), others)[1]
    source, blocks = FixedNoise(0), [stream[:1], stream[1:2500], stream[2500:]]
    monkeypatch.setattr(source, "_block", lambda: blocks.pop(0))
    x = source.draw(kept + 50)
    assert (x == 0).sum() == 50
    assert x[x != 0].tolist() == others[:kept].tolist()


# Kernel, NumPy, calls.


def attempts_near_the_margin() -> Array:
    """Two for each of 8000 places, whose chance is one unit of 2^-31 beside the limit: one in 64 of them stays open."""
    rng = np.random.default_rng(1)
    found = np.empty(16_000, rounded.ATTEMPT)
    found["coarse"] = rng.integers(1 << 64, size=16_000, dtype=np.uint64)
    found["fine"] = rng.integers(1 << 32, size=16_000, dtype=np.uint64)
    cells = np.array([bisect_right(rounded.THRESHOLDS, int(place) << 64) for place in found["coarse"]])
    within = (found["fine"] >> 4) * 2.0**-28
    limit = np.floor(np.exp(-within * (2 * cells + within) / 512) * 2.0**31)
    found["last"] = limit + np.where(np.arange(16_000) % 2, 1, -1)
    return found


def walked(stream: Array, want: int) -> tuple[list[int], list[int]]:
    """Values made, at most `want`, passing over the open attempts; and where those stood and the walk ended."""
    out, at, filled, stops = np.empty(want, np.int64), 0, 0, []
    while at < len(stream) and filled < want:
        used, made, is_open = rounded.made(stream[at:], out[filled:])
        at, filled = at + used + is_open, filled + made
        if is_open:
            stops.append(at - 1)
    return out[:filled].tolist(), [*stops, at]


def test_every_instruction_set_and_numpy_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = np.frombuffer(os.urandom(16 * 70_000), rounded.ATTEMPT)
    near = attempts_near_the_margin()
    opens = []
    for stream, wants in (
        (plain, (0, 1, 255, 256, 257, 66_000, 80_000)),
        (plain[5:300], (200, 300)),
        (attempts_near_the_limit(), (50, 1000)),
        (near, (20_000,)),
    ):
        for want in wants:
            monkeypatch.setattr(kernels, "loaded", lambda: None)
            expected = walked(stream, want)
            for kernel in kernels.every():
                monkeypatch.setattr(kernels, "loaded", lambda kernel=kernel: kernel)
                assert walked(stream, want) == expected, (kernel.name, want)
            opens.append(len(expected[1]) - 1)
    assert opens[-1] / len(near) == pytest.approx(1 / 64, rel=0.4)  # 250 of them expected: six standard errors


def test_kernel_and_numpy_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over more than one block of keystream, and however the draws are cut into calls."""
    whole = FixedNoise(5).draw(200_000)
    monkeypatch.setenv(kernels.SWITCH, "off")
    assert FixedNoise(5).draw(200_000).tobytes() == whole.tobytes()
    source = FixedNoise(5)
    cut = [source.draw(count) for count in (0, 1, 2, 997, 0, 99_000, 100_000)]
    assert np.concatenate(cut).tobytes() == whole.tobytes()
    assert FixedNoise(6).draw(100).tolist() != whole[:100].tolist()


@pytest.mark.usefixtures("arithmetic")
def test_shape_type_and_count() -> None:
    source = SystemNoise()
    assert source.draw(0).shape == (0,)
    for count in (1, 5, 1000):
        found = source.draw(count)
        assert (found.shape, found.dtype) == ((count,), np.dtype(np.int64))
    for ask in (source.draw, gap):
        with pytest.raises(ValueError, match="-1 draws"):
            ask(-1)


# Nothing repeats.


def test_sources_have_keys_of_their_own_and_take_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = SystemNoise().draw(1000), SystemNoise().draw(1000)
    assert len(np.intersect1d(first, second)) < 5  # by chance one pair in 10^4 runs
    keys: list[bytes] = []

    def key() -> bytes:
        keys.append(os.urandom(32))
        return keys[-1]

    monkeypatch.setattr(noise, "_PER_KEY", 2 << 20)
    KeyedNoise(key).draw(300_000)  # 97 % of 2^16 a block: five blocks
    assert len(keys) == 3
    assert len(set(keys)) == 3


def test_sources_are_not_copied() -> None:
    source = SystemNoise()
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="not copied"):
            attempt(source)


def test_threads_share_a_source_without_sharing_noise() -> None:
    source = FixedNoise(8)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(source.draw, [50_000] * 8))
    assert sorted(np.concatenate(parts).tolist()) == sorted(FixedNoise(8).draw(400_000).tolist())


def test_a_forked_process_draws_its_own() -> None:
    code = """
import os
from edgehold.core.privacy.noise import SystemNoise
source = SystemNoise()
source.draw(3)
child = os.fork()
print(source.draw(2).tolist(), flush=True)
if child:
    os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.split("\n")
    assert len(lines[:-1]) == 2
    assert lines[0] != lines[1]


def test_the_gap_adds_up_and_is_small() -> None:
    assert (gap(0).ratio, gap(0).distance) == (0.0, 0.0)
    assert gap(1000).ratio == pytest.approx(1000 * gap(1).ratio)
    assert gap(1000).distance == pytest.approx(1000 * gap(1).distance)
    assert 0 < gap(10**12).ratio < 1e-20
    assert 0 < gap(10**12).distance < 1e-20
