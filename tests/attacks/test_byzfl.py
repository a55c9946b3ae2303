"""ByzFL's own optimal attacks as a yardstick: on the same updates, against the same rule, ours must do at least as much harm.

Set EDGEHOLD_BYZFL_PYTHON to the python of an environment that has ByzFL. That its rules are ours is shown by
tests/rules/test_peer.py; here both lies go through our own rule.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgehold.attacks.byzantine import registry
from edgehold.attacks.byzantine.rule import ServerRule
from edgehold.attacks.byzantine.sight import Sight, moments
from edgehold.core.rng import stream
from edgehold.core.vectors import MemorySpace, Vector
from edgehold.defenses.baselines.rules import Round, VectorRows, recipe
from edgehold.defenses.baselines.rules.options import Value

PYTHON = os.environ.get("EDGEHOLD_BYZFL_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="EDGEHOLD_BYZFL_PYTHON does not name a python that has byzfl 0.0.11")

HONEST, LIARS, SIZE, DRAWS = 16, 4, 300, 5
RULES: dict[str, tuple[str, dict[str, Value]]] = {
    "trimmed_mean": ("TrMean", {}),
    "median": ("Median", {}),
    "meamed": ("Meamed", {}),
    "krum": ("Krum", {}),
    "mda": ("MDA", {}),
    "geometric_median": ("GeometricMedian", {"iterations": 400}),
    "centred_clipping": ("CenteredClipping", {"radius": 10.0, "iterations": 1}),
    "nnm+trimmed_mean": ("NNM+TrMean", {}),
    "nnm+median": ("NNM+Median", {}),
    "nnm+krum": ("NNM+Krum", {}),
}
ASK = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
from rules_peer import load
byzfl = load()
given = {"GeometricMedian": {"nu": 0.1, "T": 400}, "CenteredClipping": {"tau": 10.0, "L": 1}}
x, out = np.load(sys.argv[2]), {}
for name in sys.argv[4:]:
    *before, last = [getattr(byzfl, part)(**given.get(part, {"f": 4})) if part != "Median" else byzfl.Median()
                     for part in name.split("+")]
    for kind, attack in (("ipm", byzfl.Optimal_InnerProductManipulation), ("alie", byzfl.Optimal_ALittleIsEnough)):
        for draw, honest in enumerate(x):
            out[f"{name} {kind} {draw}"] = attack(agg=last, pre_agg_list=before, f=4)(honest)
np.savez(sys.argv[3], **out)
"""


def updates() -> NDArray[np.float32]:
    """(draws, honest, size): what clients have in common is shorter than what sets them apart, as late in a training."""
    found = [stream(draw, "byzfl").standard_normal((HONEST + 1, SIZE)) for draw in range(DRAWS)]
    return np.array([0.3 * values[0] + values[1:] for values in found], dtype=np.float32)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float64]]:
    """The lies of ByzFL's attacks with their own settings."""
    folder, benchmarks = tmp_path_factory.mktemp("peer"), Path(__file__).parents[2] / "benchmarks"
    np.save(folder / "x.npy", updates().astype(np.float64))
    ask = [PYTHON, "-c", ASK, str(benchmarks), str(folder / "x.npy"), str(folder / "out.npz")]
    subprocess.run([*ask, *(name for name, _ in RULES.values())], check=True, timeout=300)
    return dict(np.load(folder / "out.npz"))


def harm(rule: ServerRule, honest: NDArray[np.float32], lie: NDArray[np.float64]) -> float:
    """Distance of the rule's result from the honest mean."""
    rows = VectorRows([Vector.of(row) for row in [*honest, *[lie.astype(np.float32)] * LIARS]])
    sink = MemorySpace().sink(SIZE, "<f8")
    recipe(rule.name, rule.options).aggregate(rows, Round(rule.liars), sink)
    return float(np.linalg.norm(sink.finish().whole() - honest.mean(axis=0, dtype=np.float64)))


@pytest.mark.parametrize("kind", ["ipm", "alie"])
@pytest.mark.parametrize("name", RULES)
def test_at_least_as_harmful_as_byzfl(name: str, kind: str, theirs: dict[str, NDArray[np.float64]]) -> None:
    peer, options = RULES[name]
    rule = ServerRule(name, LIARS, options)
    for draw, honest in enumerate(updates()):
        others = {f"c{i:02}": row for i, row in enumerate(honest)}
        own = {f"d{i}": honest[i] for i in range(LIARS)}
        seen = Sight(own, others, np.zeros(SIZE, np.float32), HONEST + LIARS, LIARS, stream(0), {}, rule)
        ours = registry.attack_of(f"{kind}_optimised", {}).lie(seen)["d0"]
        assert moments(others)[0] == pytest.approx(honest.mean(axis=0), abs=1e-6)
        assert harm(rule, honest, ours) >= harm(rule, honest, theirs[f"{peer} {kind} {draw}"]) * (1 - 1e-4), draw
