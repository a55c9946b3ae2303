"""Any number of clients: the same bits for any block, any number of cores and any cluster, in memory that does not grow."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgehold.core import kernels
from edgehold.core.contract import Weighted
from edgehold.core.errors import ConfigError, NotFinite
from edgehold.core.vectors import MemorySpace, Part, Schema, Tensor, Vector
from edgehold.defenses.baselines.fedavg.server import FedAvgServer
from edgehold.defenses.baselines.fedavg.state import Settings, State, Update
from edgehold.defenses.baselines.rules import Round, VectorRows, cluster, gram, recipe, rows
from edgehold.server.store.spool import SealedFile

Matrix = NDArray[np.float32]
WIDE = 2 * gram.PIECE + 1234
"""Two whole pieces of a Gram matrix and a broken one."""


def spooled(folder: Path, x: Matrix) -> VectorRows:
    """Rows in sealed files, behind headers of several lengths."""
    vectors = []
    for number, row in enumerate(x):
        file = SealedFile(folder / str(number), bytes(32), b"%d" % number)
        file.append(b"h" * (number % 5) + row.tobytes())
        vectors.append(Vector(Part(file, number % 5)))
    return VectorRows(vectors)


def digest(name: str, updates: VectorRows, f: int, options: dict[str, float | str] | None = None) -> str:
    sink = MemorySpace().sink(updates.d, "<f8")
    recipe(name, options).aggregate(updates, Round(f), sink)
    return hashlib.sha256(sink.finish().whole().tobytes()).hexdigest()


def matrix(n: int, d: int) -> Matrix:
    """Ordinary numbers, and columns of few values: ties of every length."""
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, d), dtype=np.float32)
    x[:, ::3] = np.round(x[:, ::3])
    x[:, 1::7] = 0.0
    x[::2, 1::7] = -0.0
    return x


@pytest.fixture
def many_files() -> Iterator[None]:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2048), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("n", [3, 511, 513, 1000])
def test_neither_blocks_nor_cores_change_a_bit(
    n: int, tmp_path: Path, many_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distance rules on the path of long updates; f = 0 where three cannot withstand one."""
    monkeypatch.setattr(gram, "SHORT", 1000)
    x, f = matrix(n, WIDE if n < 100 else gram.PIECE + 500), 0 if n == 3 else n // 5
    updates = spooled(tmp_path, x)
    names = ["median", "trimmed_mean", "meamed", "krum"]
    names += ["geometric_median", "nnm+trimmed_mean"] if n < 512 else []
    for name in names:
        found = set()
        for held, block, cores in ((rows.HELD, 1 << 22, 1), (1 << 18, 1 << 25, 3), (3_000_000, 1, 8)):
            monkeypatch.setattr(rows, "HELD", held)
            monkeypatch.setattr(gram, "_BLOCK", block)
            monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
            found.add(digest(name, updates, f))
        found.add(digest(name, VectorRows([Vector.of(row) for row in x]), f))
        assert len(found) == 1, name


def test_a_gram_matrix_is_the_same_for_any_block(monkeypatch: pytest.MonkeyPatch, arithmetic: str) -> None:
    if arithmetic == "numpy":
        pytest.skip("the product in float64 has blocks of one size")
    monkeypatch.setattr(gram, "SHORT", 1000)
    x = matrix(40, 5 * gram.PIECE + 77)
    x *= np.power(10.0, np.random.default_rng(1).uniform(-6, 6, x.shape[1])).astype(np.float32)  # sums that round
    updates = VectorRows([Vector.of(row) for row in x])
    found = set()
    for block in (1, 2 * 40 * gram.PIECE, 1 << 30):
        monkeypatch.setattr(gram, "_BLOCK", block)
        found.add(gram.majority_gram(updates, 40).tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("n", [257, 513, 1000])
def test_many_rows_against_sorting_by_the_book(n: int) -> None:
    """Sums run in ascending order, one after the other, whatever sorted them."""
    x = matrix(n, 333)
    x[:, ::2] *= np.power(10.0, np.random.default_rng(1).uniform(-6, 6, x[:, ::2].shape)).astype(np.float32)  # sums round
    updates, f = VectorRows([Vector.of(row) for row in x]), n // 3
    ordered = np.sort(x, axis=0).astype(np.float64)
    for name, lo, hi in (("median", (n - 1) // 2, n // 2 + 1), ("trimmed_mean", f, n - f)):
        want = (np.cumsum(ordered[lo:hi], axis=0)[-1] + 0.0) / (hi - lo)
        assert digest(name, updates, f) == hashlib.sha256(want.tobytes()).hexdigest()
        assert digest(name, VectorRows([Vector.of(row) for row in x[::-1]]), f) == digest(name, updates, f)


def test_every_instruction_set_sorts_many_rows_alike() -> None:
    for n in (1, 7, 8, 9, 100, 513, 1000):
        x = matrix(n, 100)
        sets = {one.ordered_mean(list(x), None, 0, n, 0).tobytes() for one in kernels.every()}
        sets.add(((np.cumsum(np.sort(x, axis=0).astype(np.float64), axis=0)[-1] + 0.0) / n).tobytes())
        assert len(sets) == 1, n


def test_a_spooled_update_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    x = matrix(5, 3000)
    x[3, 2017] = np.nan
    sealed = [SealedFile(tmp_path / str(number), bytes(32), b"") for number in range(5)]
    for file, row in zip(sealed, x, strict=True):
        file.append(row.tobytes())
    server = FedAvgServer(Settings(rule="median", liars=1), Schema((Tensor("w", (3000,)),)), 0)
    sent = [Weighted(f"c{i}", 1.0, Update(Vector(file), 1)) for i, file in enumerate(sealed)]
    start = State(Vector.of(np.zeros(3000, np.float32)))
    with pytest.raises(NotFinite, match="value 2017 is nan"):
        server.close(start, sent, MemorySpace())
    honest = [*sent[:3], sent[4]]
    model, _ = server.close(start, honest, MemorySpace())
    assert np.allclose(model.model.whole(), np.median(x[[0, 1, 2, 4]], axis=0), atol=1e-6)


CHILD = """
import json, sys
from pathlib import Path
from benchmarks import spool
print(json.dumps(spool.measure(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
"""


@pytest.mark.parametrize("rule", ["trimmed_mean", "krum"])
def test_memory_does_not_grow_with_the_updates(rule: str, tmp_path: Path, arithmetic: str) -> None:
    """240 MB of updates in three fifths of that: 64 MiB of blocks, what becomes of them, and n x n numbers."""
    from benchmarks import spool

    if arithmetic == "numpy":
        pytest.skip("measured once, on the kernels")
    n, d = 300, 200_000
    spool.spooled(tmp_path, n, d)
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, "-c", CHILD, str(tmp_path), rule, str(n), str(d)]
    done = subprocess.run(command, env=os.environ | one, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["peak"] - found["before"] < 0.6 * 4 * n * d / (1 << 20)
    assert found["passes"] >= 1.0, "control: the rule read them all"


class Ray:
    """Stands for Ray: what is asked of it, one block whose node is lost, one whose node cannot read a file."""

    class exceptions:
        class RayError(Exception):
            cause: Exception | None = None

    def __init__(self) -> None:
        self.address: str | None = "unasked"
        self.lost: set[int] = set()
        self.unreadable = False
        self.objects: list[Any] = []
        self.blocks = 0

    def is_initialized(self) -> bool:
        return self.address != "unasked"

    def init(self, address: str | None, **_: Any) -> None:
        if address == "nobody:1":
            raise ConnectionError("refused")
        self.address = address

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def put(self, what: Any) -> bytes:
        self.objects.append(what)
        return (len(self.objects) - 1).to_bytes(4, "big")

    def get(self, one: Any) -> Any:
        if isinstance(one, bytes):
            return self.objects[int.from_bytes(one, "big")]
        number, call = one
        if self.unreadable or number in self.lost:
            error = self.exceptions.RayError("node died")
            error.cause = ConfigError("spool file: gone") if self.unreadable else None
            raise error
        return call()

    def remote(self, **how: Any) -> Any:
        assert how["num_cpus"] == 1
        ray = self

        def wrap(work: Any) -> Any:
            class Handle:
                @staticmethod
                def remote(*given: Any) -> Any:
                    ray.blocks += 1
                    return ray.blocks - 1, lambda: work(*given)

            return Handle

        return wrap


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    found = Ray()
    monkeypatch.setitem(sys.modules, "ray", found)
    monkeypatch.setattr(rows, "HELD", 1 << 15)  # many blocks
    monkeypatch.setattr(cluster, "_kept", {})
    return found


@pytest.mark.parametrize("rule", ["median", "nnm+trimmed_mean", "geometric_median"])
def test_blocks_go_to_a_cluster_and_lost_ones_are_worked_out_here(rule: str, ray: Ray, tmp_path: Path, arithmetic: str) -> None:
    updates = spooled(tmp_path, matrix(11, WIDE))
    want = digest(rule, updates, 2)
    assert ray.blocks == 0
    ray.lost = {0, 4}
    with cluster.on_cluster("10.0.0.7:6379"):
        assert digest(rule, updates, 2) == want
    assert ray.address == "10.0.0.7:6379"
    assert ray.blocks >= (5 if arithmetic == "kernels" else 1)
    asked = ray.blocks
    with cluster.on_cluster(""):
        assert digest(rule, updates, 2) == want
    assert ray.blocks == asked, "without an address, and after a cluster, blocks stay here"


def test_what_is_wrong_with_a_cluster_is_told(ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no Ray cluster answers at 'nobody:1'"), cluster.on_cluster("nobody:1"):
        pass
    ray.unreadable = True
    updates = spooled(tmp_path, matrix(5, 100))
    with pytest.raises(ConfigError, match="spool file: gone"), cluster.on_cluster("local"):
        digest("median", updates, 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"edgehold\[ray\]"), cluster.on_cluster("local"):
        pass


REAL = """
import sys
from pathlib import Path
import ray
from edgehold.defenses.baselines.rules import cluster
from tests.rules import test_blocks as t
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
updates = t.spooled(Path(sys.argv[1]), t.matrix(9, 150_000))
for rule in ("median", "trimmed_mean", "krum", "geometric_median", "nnm+trimmed_mean", "centred_clipping"):
    options = {"radius": 1.0} if rule == "centred_clipping" else {}
    with cluster.on_cluster("local"):
        there = t.digest(rule, updates, 2, options)
    assert there == t.digest(rule, updates, 2, options), rule
ray.shutdown()
print("the same")
"""


@pytest.mark.slow
def test_a_real_cluster_gives_the_same_digests(tmp_path: Path, arithmetic: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed here: pip install 'edgehold[ray]'")
    if arithmetic == "numpy":
        pytest.skip("one cluster is enough")
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-W", "ignore", "-c", REAL, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), paths])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout.splitlines()[-1:] == ["the same"], done.stderr[-2000:]
