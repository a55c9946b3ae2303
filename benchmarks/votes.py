"""FRL's vote at the speed of memory: 25 rankings of Conv8 in its real layers, decoded, checked, added up and sorted.

The machine's limit is measured in the same run: the ranks of everybody read once from memory, and one argsort of each layer's
votes. The authors' way beside it: all lists in an M x n matrix, argsort to ranks, sum, argsort. One process, one thread.
"""

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.frame import ROOT, Options, Row, load_average
from edgehold.core.contract import Weighted
from edgehold.core.rng import stream
from edgehold.core.vectors import Array, Blob, MemorySpace, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.frl.entropy import ENTROPY
from edgehold.defenses.frl.forms import PACKED, Form
from edgehold.defenses.frl.sorting import inverse
from edgehold.defenses.frl.state import Settings, Update, ranks_by

NAME = "votes"
SUMMARY = "FRL on Conv8: a vote of 25 rankings, ranking and packing on a device, the authors' way beside it"
DOCS = ROOT / "docs" / "methods" / "frl.md"
"""Where `--write-docs` puts the table."""

VOTERS = 25
WIDTHS = (3, 64, 64, 128, 128, 256, 256, 512, 512)
CONV8 = (*((after, before, 3, 3) for before, after in pairwise(WIDTHS)), (256, 2048), (256, 256), (10, 256))
"""5,275,840 weights."""
QUICK = ((40, 30), (10, 40))


def rows(options: Options) -> Iterator[Row]:
    """Vote, device, the authors' way, bytes."""
    shapes = QUICK if options.quick else CONV8
    schema = Schema(tuple(Tensor(str(number), shape) for number, shape in enumerate(shapes)))
    layers = [tensor.size for tensor in schema.tensors]
    voters, times = (3, 1) if options.quick else (VOTERS, 3)
    target = None if options.quick else 1.0
    rng = stream(1, "bench votes")
    whole = [rng.permutation(edges).astype(np.int32) for edges in layers]

    def vote(voter: int) -> list[Array]:
        # Rolled, so that every voter has another permutation and making them costs little.
        return [np.roll(ranks, voter * 997) for ranks in whole]

    codec = registry.codec("frl", Settings())
    sent = [codec.encode_update(Update(vote(voter), (False,) * len(layers))) for voter in range(voters)]
    server = registry.server_side("frl", Settings(), schema, 1)
    state = server.start(Vector.of(np.zeros(schema.size, np.float32)))

    def product() -> None:
        updates = [Weighted(f"{n:02}", 1.0, codec.decode_update(payload, schema)) for n, payload in enumerate(sent)]
        server.close(state, updates, MemorySpace())

    load = load_average()
    everybody = [np.concatenate(vote(voter)) for voter in range(voters)]  # more than any cache holds
    reading = _seconds(lambda: [np.add.reduce(ranks) for ranks in everybody], times)
    everybody.clear()
    sorting = _seconds(lambda: [np.argsort(ranks) for ranks in whole], times)
    limit, strict = reading + sorting, 6 * reading + sorting
    took = _seconds(product, times)
    what = f"{schema.size:,} edges in {len(layers)} layers"
    note = (
        f"{what}; limit: ranks read once and one argsort; against six times the reading and one argsort: x {took / strict:.2f}"
    )
    yield Row(f"vote of {voters}", took, "s", target and 6 * limit, limit, load, note)

    scores = [rng.random(count, dtype=np.float32) for count in layers]
    load = load_average()
    one_sort = _seconds(lambda: [np.argsort(layer) for layer in scores], times)
    took_device = _seconds(lambda: [list(PACKED.write(ranks_by(layer))) for layer in scores], times)
    yield Row("rank and pack on a device", took_device, "s", target and 1.5 * one_sort, one_sort, load, "limit: one argsort")

    lists = [[inverse(ranks).astype(np.int64) for ranks in vote(voter)] for voter in range(voters)]
    load = load_average()
    theirs = _seconds(lambda: _authors(lists), 1)
    yield Row("share of the authors' time", 100 * took / theirs, "%", target and 50.0, None, load, f"theirs: {theirs:.3g} s")
    ours_mib, theirs_mib = _growth(product), _growth(lambda: _authors(lists))
    note = f"ours {ours_mib:.0f} MiB, theirs {theirs_mib:.0f} MiB beyond the updates"
    yield Row("share of the authors' memory", 100 * ours_mib / theirs_mib, "%", target and 20.0, None, load, note)

    for form, name, wanted in ((PACKED, "packed", 0.651), (ENTROPY, "entropy-coded", 0.60)):
        yield from _form(form, name, wanted if target else None, whole, times)


def _form(form: Form, name: str, wanted: float | None, whole: Sequence[Array], times: int) -> Iterator[Row]:
    """Bytes and nanoseconds of one form."""
    edges = sum(map(len, whole))
    size = sum(form.size(len(ranks)) for ranks in whole)
    yield Row(f"bytes {name}", size / (4 * edges), "of float32", wanted, None, load_average(), f"{size:,} bytes")
    blobs = [Vector.of(np.concatenate(list(form.write(ranks)))).blob for ranks in whole]
    writing = _seconds(lambda: [list(form.write(ranks)) for ranks in whole], times)
    checking = _seconds(lambda: _check(form, blobs, whole), times)
    reading = _seconds(lambda: [list(_drained(form, blob, len(r))) for blob, r in zip(blobs, whole, strict=True)], times)
    note = f"written {1e9 * writing / edges:.1f}, checked {1e9 * checking / edges:.1f}, read {1e9 * reading / edges:.1f}"
    yield Row(f"one ranking {name}", 1e9 * (writing + checking + reading) / edges, "ns/edge", None, None, load_average(), note)


def _check(form: Form, blobs: Sequence[Blob], whole: Sequence[Array]) -> None:
    for blob, ranks in zip(blobs, whole, strict=True):
        form.check(blob, 0, len(ranks))


def _drained(form: Form, blob: Blob, edges: int) -> Iterator[int]:
    for start, _ in form.read(blob, 0, edges):
        yield start


def _authors(lists: Sequence[Sequence[Array]]) -> list[Array]:
    """As the paper's code votes: a matrix of all lists of a layer, its argsort (the ranks), their sum, its argsort."""
    found = []
    for number in range(len(lists[0])):
        matrix = np.stack([one[number] for one in lists])
        found.append(np.argsort(np.argsort(matrix, axis=1).sum(axis=0)))
    return found


def _seconds(work: Callable[[], object], times: int) -> float:
    """Median, after one run to warm up where there are several."""
    if times > 1:
        work()
    found = []
    for _ in range(times):
        began = perf_counter()
        work()
        found.append(perf_counter() - began)
    return median(found)


def _growth(work: Callable[[], object]) -> float:
    """Most memory allocated at once while it runs, MiB."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / (1 << 20)
    finally:
        tracemalloc.stop()
