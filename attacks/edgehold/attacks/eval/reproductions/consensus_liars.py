"""Liars in a consensus: bases turned away against FedPCA, and drift against noise-robust ADMM, each in its own measure.

Neither method has a defended form, nor does any other method send what they send: so there is no matrix for them. What is left
is the control that every attack owes: it must clearly win, against the same run without liars. FedPCA: ten devices with sorted
shards of NSL-KDD, as `fl-eval reproduce fedpca` has them. ADMM: ten devices on the authors' set-up with 24 weights, all asked
in every round, noise of deviation 0.01 both ways; and the air-quality stations of `fl-eval reproduce noise_robust_admm`.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgehold.attacks.byzantine.bases import Rotate
from edgehold.attacks.byzantine.drift import Drift
from edgehold.attacks.byzantine.knowledge import K0, K1
from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.conspiracies import PayloadPlot
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.eval.reproductions import Options, fedpca, noise_robust_admm
from edgehold.attacks.eval.reproductions.noise_robust_admm_tables import STATIONS
from edgehold.client.data.linear import synthetic, task_of
from edgehold.core.plan import parse_plan
from edgehold.core.tables import TableTask
from edgehold.core.vectors import Array
from edgehold.defenses import registry
from edgehold.server import engine

NAME = "consensus_liars"
SUMMARY = "Basis rotation against FedPCA (NSL-KDD) and drift against noise-robust ADMM, 1 or 2 liars of 10, with controls"

DEVICES, WEIGHTS, ROUNDS, NOISE = 10, 24, 200, 0.01
AIR_ROUNDS, AIR_NOISE = 200, 0.03
SHARE = 0.1
"""rho, in mean eigenvalues of a device."""
MODES = ("fedpg", "fedpg_paper")
FORMS = ("anchored", "rerce", "continual", "dual")
BASE_ROUNDS = 60
SETS = {"authors": {}, "air": {"dataset": "beijing-air"}}


def cells(options: Options) -> list[Cell]:
    """Every mode and form, without liars and with; quick: the forms that ship as the default, two liars."""
    found: list[Cell] = []
    few = options.quick
    for seed in range(options.seeds):
        if options.has("nsl-kdd"):
            ways = [(0, 0.0), (2, 90.0)] if few else [(0, 0.0), (1, 30.0), (1, 90.0), (2, 30.0), (2, 90.0)]
            found += [
                {"kind": "fedpca", "dataset": "nsl-kdd", "way": mode, "liars": liars, "strength": angle, "seed": seed}
                for mode in MODES[: 1 if few else 2]
                for liars, angle in ways
            ]
        for data in ("authors", *(["air"] if options.has("beijing-air") else [])):
            pushes = [(0, 0.0), (2, 1.0)] if few else [(0, 0.0), (1, 1.0), (2, 0.3), (2, 1.0)]
            found += [
                {"kind": data, **SETS[data], "way": form, "liars": liars, "strength": push, "seed": seed}
                for form in FORMS[: 1 if few else 4]
                for liars, push in pushes
            ]
    return found


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """FedPCA: angle and loss ratio to the best subspace, detection. ADMM: dB of the consensus's squared distance from x*."""
    if cell["kind"] == "fedpca":
        ground = fedpca.Ground(fedpca._share("nsl-kdd", str(data), fedpca.CLIENTS), cell["seed"])
        attack = Rotate(cell["strength"], secret=cell["seed"]) if cell["liars"] else None
        more = {} if attack is None else {"conspiracy": PayloadPlot(_members(ground.tasks, cell["liars"]), attack, K1)}
        model = ground.run({"mode": cell["way"]}, fedpca.CLIENTS, BASE_ROUNDS, **more)
        return ground.judged(model.basis)
    tasks, solution, noise, rounds = _authors(cell["seed"]) if cell["kind"] == "authors" else _air(str(data))
    rho = SHARE * float(np.mean([np.trace(noise_robust_admm._normal(one)[0]) / len(solution) for one in tasks.values()]))
    how = {"name": "noise_robust_admm", "form": cell["way"], "rho": rho, "noise_up": noise, "noise_down": noise}
    plan, settings = parse_plan(whole_cohort(NAME, rounds, cell["seed"], len(tasks), 0, how), registry.method)
    drift = Drift(cell["strength"], secret=cell["seed"]) if cell["liars"] else None
    plot = None if drift is None else PayloadPlot(_members(tasks, cell["liars"]), drift, K0)
    result = engine.run(plan, settings, tasks, conspiracy=plot)
    return {"db": noise_robust_admm.nmsd([result.model.whole()], solution), "refused": float(sum(result.rejected.values()))}


def _members(tasks: Mapping[str, TableTask], liars: int) -> frozenset[str]:
    return frozenset(list(tasks)[:liars])


Ground = tuple[Mapping[str, TableTask], Array, float, int]


def _authors(seed: int) -> Ground:
    how = {"devices": DEVICES, "length": WEIGHTS, "seed": seed}
    tasks = {f"c{i:02}": synthetic(i, **how) for i in range(DEVICES)}
    return tasks, noise_robust_admm.tasks_solution(synthetic(-1, **how)), NOISE, ROUNDS


@lru_cache(maxsize=1)
def _air(data: str) -> Ground:
    dealt = noise_robust_admm._stations(str(Path(data) / "beijing-air"))
    tasks = {
        f"station-{i:02}": task_of(dealt, i, noise_robust_admm.POLLUTION, "PM2.5", every=10, weight=1e-3)
        for i in range(STATIONS)
    }
    problems = [noise_robust_admm._normal(task) for task in tasks.values()]
    solution = np.linalg.solve(sum(a for a, _ in problems), sum(b for _, b in problems))
    return tasks, solution, AIR_NOISE, AIR_ROUNDS


def judge(options: Options, played: Sequence[Played]) -> Report:
    """A bar per mode and form at two liars and full strength; tables of all of them."""
    bars, tables, notes = [], [], list(NOTES)

    def values(kind: str, way: str, liars: int, strength: float, name: str) -> list[float]:
        wanted = {"kind": kind, "way": way, "liars": liars, "strength": strength}
        return [p.value[name] for p in played if wanted.items() <= p.cell.items()]

    def ways(kind: str) -> list[tuple[str, int, float]]:
        return list(
            dict.fromkeys((p.cell["way"], p.cell["liars"], p.cell["strength"]) for p in played if p.cell["kind"] == kind)
        )

    rows = []
    for way, liars, angle in ways("fedpca"):
        found = [told(values("fedpca", way, liars, angle, name)) for name in HEADS.values()]
        rows.append([way, str(liars), f"{angle:g}" if liars else "", *found])
        if (liars, angle) == (2, 90.0):
            calm, lied = (values("fedpca", way, *how, "angle") for how in ((0, 0.0), (2, 90.0)))
            turned = [after - before for before, after in zip(calm, lied, strict=True)]
            bars.append(
                Bar(f"bases_rotate, {way}, 2 of 10, 90 degrees: angle gained, degrees", 30.0, *mean_spread(turned), ">=")
            )
    if rows:
        heads = ("mode", "liars", "angle sent", *HEADS)
        tables.append(Table(f"FedPCA on NSL-KDD, k {fedpca.K}, {BASE_ROUNDS} rounds of bases", heads, rows))
    else:
        notes.append("FedPCA left out: no folder nsl-kdd in the data folder (--data or EDGEHOLD_DATA).")
    for kind, where in (("authors", f"authors' set-up, {WEIGHTS} weights"), ("air", "air-quality stations")):
        rows = []
        for way, liars, push in ways(kind):
            rows.append([way, str(liars), f"{push:g}" if liars else "", told(values(kind, way, liars, push, "db"))])
            if (liars, push) == (2, 1.0):
                calm, lied = (values(kind, way, *how, "db") for how in ((0, 0.0), (2, 1.0)))
                lost = [after - before for before, after in zip(calm, lied, strict=True)]
                bars.append(Bar(f"consensus_drift, {where}, {way}, 2 liars: dB lost", 5.0, *mean_spread(lost), ">="))
        if rows:
            heads = ("form", "liars", "strength", "dB from x*")
            tables.append(Table(f"ADMM, {where}, {ROUNDS} rounds, all asked", heads, rows))
    return Report(bars, tables, notes)


HEADS = {
    "angle": "angle", "loss ratio": "ratio", "AUC": "auc", "recall": "recall", "false positives": "false_positive_rate",
}  # fmt: skip

NOTES = (
    "Angle: largest principal one to the best subspace of all devices' records, degrees. Liars are the first devices; their "
    "records count as anybody's in what is best.",
    "Recall and false positives at the exact 95 % quantile of all held-out normal records; liars tell the truth in that round.",
    "Strength: deviation of the drift's numbers in deviations of the link's noise; anchored: by which it grows a round.",
    "dB: squared distance of the consensus from x*, over |x*|^2. Seeds draw noise, the liars' secret and the authors' data.",
)
