"""ByzFL as oracle for the rules whose definition it shares: set EDGEHOLD_BYZFL_PYTHON to the python of its environment."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgehold.core.vectors import MemorySpace, Vector
from edgehold.defenses.baselines.rules import Round, VectorRows, recipe

PYTHON = os.environ.get("EDGEHOLD_BYZFL_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="EDGEHOLD_BYZFL_PYTHON does not name a python that has byzfl 0.0.11")

CASES: dict[str, tuple[str, dict[str, float | str]]] = {
    "average": ("Average", {}),
    "median": ("Median", {}),
    "trimmed_mean": ("TrMean", {}),
    "meamed": ("Meamed", {}),
    "geometric_median": ("GeometricMedian", {"iterations": 400}),
    "centred_clipping": ("CenteredClipping", {"radius": 1.5, "iterations": 3}),
    "mda": ("MDA", {}),
    "monna": ("MoNNA", {"trusted": "c0"}),
    "nnm+trimmed_mean": ("NNM+TrMean", {}),
    "nnm+mda": ("NNM+MDA", {}),
    "arc+median": ("ARC+Median", {}),
    "clipping+trimmed_mean": ("Clipping+TrMean", {"clip_to": 2.0}),
}
X = np.random.default_rng(0).standard_normal((11, 7)).astype(np.float32)
ASK = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
from rules_peer import load
byzfl = load()
given = {"Average": {}, "Median": {}, "GeometricMedian": {"nu": 0.1, "T": 400}, "CenteredClipping": {"tau": 1.5, "L": 3},
         "Clipping": {"c": 2.0}}
out = {}
for name in sys.argv[4:]:
    x = np.load(sys.argv[2])
    for part in name.split("+"):
        x = getattr(byzfl, part)(**given.get(part, {"f": 3}))(x)
    out[name] = x
np.savez(sys.argv[3], **out)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float64]]:
    """What ByzFL makes of X, by its own names."""
    folder, benchmarks = tmp_path_factory.mktemp("peer"), Path(__file__).parents[2] / "benchmarks"
    np.save(folder / "x.npy", X.astype(np.float64))
    ask = [PYTHON, "-c", ASK, str(benchmarks), str(folder / "x.npy"), str(folder / "out.npz")]
    subprocess.run([*ask, *(theirs for theirs, _ in CASES.values())], check=True, timeout=110)
    return dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize("name", CASES)
def test_equals_byzfl(name: str, answers: dict[str, NDArray[np.float64]]) -> None:
    theirs, options = CASES[name]
    sink = MemorySpace().sink(X.shape[1], "<f8")
    rows = VectorRows([Vector.of(row) for row in X])
    now = Round(0 if name == "average" else 3, (), [f"c{i}" for i in range(len(X))])
    recipe(name, options).aggregate(rows, now, sink)
    assert np.allclose(sink.finish().whole(), answers[theirs], rtol=0, atol=1e-6)
