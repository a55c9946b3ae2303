"""Noise-robust ADMM on the set-up of the authors' scripts and on air-quality stations, and its drift against what is derived.

Source: Lari et al. 2024, arXiv:2409.13451; no table of it could be read. NMSD: mean over devices of |x_k - x*|^2 / |x*|^2, in
dB, of the devices' own x after a round; x* is the solution that all records together have, on the authors' set-up what the
targets were made from.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.attacks.eval.bars import Bar, Report, mean_spread
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.eval.reproductions import Options
from edgehold.attacks.eval.reproductions.noise_robust_admm_tables import (
    AIR_NOISE,
    ALL_ROUNDS,
    DEVICES,
    EARLY,
    EXACT_ROUNDS,
    FEW,
    LATE,
    LOUD,
    QUIET,
    ROUNDS,
    STATIONS,
    Found,
    air_tables,
    authors_table,
)  # fmt: skip
from edgehold.client.data.deal import Deal, deal
from edgehold.client.data.linear import synthetic, task_of
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.tables import TableTask
from edgehold.defenses import registry
from edgehold.defenses.noise_robust_admm.client import AdmmClient
from edgehold.server import engine

NAME = "noise_robust_admm"
SUMMARY = "Least squares over noisy links: floors, drift, and the anchored form; air data with --data"

SHARE = 0.1
"""rho on the air data, in mean eigenvalues."""
POLLUTION = ("PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "RAIN", "WSPM")
EXACT = -160.0
"""dB of a relative error of 1e-8."""
SLOPE_RUNS = 40


def cells(options: Options) -> list[Cell]:
    """The runs of each seed; the drift is one cell of 40 runs."""
    found: list[Cell] = []
    for seed in range(options.seeds):
        found += [_authors(form, FEW, LOUD, ROUNDS, seed) for form in ("anchored", "rerce", "continual")]
        found += [_authors("rerce", FEW, QUIET, ROUNDS, seed)]
        if not options.quick:
            found += [_authors(form, FEW, QUIET, ROUNDS, seed) for form in ("anchored", "continual")]
            found += [_authors(form, FEW, 0.0, ROUNDS, seed) for form in ("anchored", "rerce", "continual")]
            found += [_authors(form, DEVICES, LOUD, ALL_ROUNDS, seed) for form in ("rerce", "dual")]
            found += [_authors(form, DEVICES, QUIET, ALL_ROUNDS, seed) for form in ("rerce", "dual")]
            found += [_authors("rerce", asked, noise, ALL_ROUNDS, seed) for asked in (10, 20) for noise in (LOUD, QUIET)]
            found += [_authors("dual", asked, LOUD, ALL_ROUNDS, seed) for asked in (20, 10, FEW)]
            found += [_authors(form, FEW, 0.0, ROUNDS, seed) | {"wire": "float16"} for form in ("anchored", "rerce")]
        if options.has("beijing-air"):
            ways = [("anchored", FEW), ("rerce", FEW)] + ([] if options.quick else [("continual", FEW), ("rerce", STATIONS)])
            ways += [] if options.quick else [("anchored", STATIONS)]
            found += [{"kind": "air", "form": form, "asked": c, "variance": AIR_NOISE, "seed": seed} for form, c in ways]
            if not options.quick:
                found += [
                    {"kind": "air", "form": form, "asked": c, "variance": 0.0, "seed": seed, "wire": "float64"}
                    for form, c in ways
                    if c == FEW or not seed  # nothing is drawn where all are asked
                ]
    return [*found, {"kind": "slope", "runs": SLOPE_RUNS}]


def _authors(form: str, asked: int, variance: float, rounds: int, seed: int) -> Cell:
    return {"kind": "authors", "form": form, "asked": asked, "variance": variance, "rounds": rounds, "seed": seed}


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """NMSD by round, or measured over derived drift."""
    if cell["kind"] == "slope":
        return {"ratio": slope(cell["runs"])}
    if cell["kind"] == "authors":
        tasks = {f"c{i:03}": synthetic(i, seed=cell["seed"]) for i in range(DEVICES)}
        solution = tasks_solution(synthetic(-1, seed=cell["seed"]))
        return run(tasks, solution, cell, 1.0, (cell["rounds"],))
    dealt = _stations(str((data or Path()) / "beijing-air"))
    tasks = {
        f"station-{i:02}": task_of(dealt, i, POLLUTION, "PM2.5", every=10, weight=1e-3) for i in range(STATIONS)
    }  # fmt: skip
    problems = [_normal(task) for task in tasks.values()]
    solution = np.linalg.solve(sum(a for a, _ in problems), sum(b for _, b in problems))
    rho = SHARE * float(np.mean([np.linalg.eigvalsh(a).mean() for a, _ in problems]))
    alone = [np.linalg.solve(a, b) for a, b in problems]
    at = (EARLY, LATE) if cell["variance"] else (LATE, EXACT_ROUNDS)
    return run(tasks, solution, cell, rho, at) | {"alone": nmsd(alone, solution)}


@lru_cache(maxsize=1)
def _stations(path: str) -> Deal:
    """Loaded once per process."""
    return deal("beijing-air", path, devices=STATIONS, partition="groups", scale="standard")


def tasks_solution(own: TableTask) -> Any:
    """x* of the synthetic set-up, which its server's copy holds."""
    assert own.test_data is not None
    return own.test_data.x[0]


def _normal(task: TableTask) -> tuple[Any, Any]:
    assert task.train_data is not None
    h, y = task.train_data.x.astype(np.float64), task.train_data.y.astype(np.float64)
    return task.weight * (h.T @ h), task.weight * (h.T @ y)


def nmsd(found: Sequence[Any], solution: Any) -> float:
    """In dB; see the module."""
    return float(10 * np.log10(np.mean([np.square(x - solution).sum() for x in found]) / np.square(solution).sum()))


def run(tasks: Mapping[str, TableTask], solution: Any, cell: Cell, rho: float, at: Sequence[int]) -> dict[str, float]:
    """A run in one process; NMSD of the devices' x after the rounds `at`. Devices that were never asked are left out.

    Air data without noise: also the first round with a relative error of at most 1e-8, if there is one.
    """
    noise = float(np.sqrt(cell["variance"]))
    how = {"name": NAME, "form": cell["form"], "rho": rho, "noise_up": noise, "noise_down": noise}
    how |= {"wire": cell["wire"]} if "wire" in cell else {}
    text = whole_cohort(NAME, max(at), cell["seed"], cell["asked"], 0, how)
    plan, settings = parse_plan(text, registry.method)
    store, half, found = engine.Store(), AdmmClient(), {}

    def after(number: int, facts: Mapping[str, float]) -> None:
        exact = cell["kind"] == "air" and not cell["variance"] and "exact" not in found
        if number not in at and not exact:
            return
        kept = [store.local(client) for client in tasks]
        here = nmsd([half.load(one).x for one in kept if one is not None], solution)
        if number in at:
            found[f"nmsd_{number}"] = here
            found["unasked"] = float(sum(one is None for one in kept))
        if exact and here <= EXACT and None not in kept:
            found["exact"] = float(number)

    engine.run(plan, settings, tasks, on_round=after, store=store)
    return found


def slope(runs: int, devices: int = 10, length: int = 8, rounds: int = 400, deviation: float = 0.1) -> float:
    """Measured growth of E|s - x*|^2 per round under "rerce", all devices, over rho^2 K (su^2 + sd^2) tr((sum A)^-2)."""
    from edgehold.defenses.noise_robust_admm.problems import Quadratic

    rng = stream(0, NAME, "slope")
    roots = [rng.standard_normal((2 * length, length)) for _ in range(devices)]
    problems = [Quadratic(h.T @ h, h.T @ rng.standard_normal(2 * length)) for h in roots]
    total = np.asarray(sum(p.a for p in problems))
    solution = np.linalg.solve(total, np.asarray(sum(p.b for p in problems)))
    rho = float(np.trace(total)) / devices / length
    squares = np.zeros(rounds)
    for _ in range(runs):
        x = [p.prox(np.zeros(length), np.zeros(length), rho, np.zeros(length)) for p in problems]
        before = np.zeros(length)
        s = np.mean([one + deviation * rng.standard_normal(length) for one in x], axis=0)
        for number in range(rounds):
            p = 2 * s - before
            x = [
                f.prox(p + deviation * rng.standard_normal(length), f.gradient(one), rho, one)
                for f, one in zip(problems, x, strict=True)
            ]
            before, s = s, np.mean([one + deviation * rng.standard_normal(length) for one in x], axis=0)
            squares[number] += np.square(s - solution).sum() / runs
    late = np.arange(rounds // 4, rounds)
    measured = float(np.polyfit(late, squares[late], 1)[0])
    inverse = np.linalg.inv(total)
    return measured / (rho**2 * devices * 2 * deviation**2 * float(np.trace(inverse @ inverse)))


def judge(options: Options, played: Sequence[Played]) -> Report:
    """Floors of the authors' set-up, what the dual costs, drift on real data, drift as derived."""
    found = Found(played)

    def apart(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
        return mean_spread([a - b for a, b in zip(one, other, strict=True)])

    loud, memory = found.authors("rerce", FEW, LOUD), found.authors("continual", FEW, LOUD)
    gained = apart(loud, found.authors("rerce", FEW, QUIET))
    bars = [
        Bar("authors' set-up, 4 of 100 asked, variance 0.01: rerce, dB", -16.0, *mean_spread(loud)),
        Bar("the same: continual minus rerce, dB", -4.0, *apart(memory, loud)),
        Bar("16 times less noise, rerce: dB gained, at least", 11.0, *gained, sense=">="),
        Bar("16 times less noise, rerce: dB gained, at most", 13.0, *gained),
    ]
    if whole := found.authors("dual", DEVICES, LOUD, ALL_ROUNDS):
        bars.append(
            Bar("all 100 asked: rerce minus dual, dB", -3.0, *apart(found.authors("rerce", DEVICES, LOUD, ALL_ROUNDS), whole))
        )
    notes = list(NOTES)
    tables = [authors_table(found)]
    if found.values("alone", kind="air"):
        early, late = (found.air("anchored", FEW, n) for n in (EARLY, LATE))
        drift = apart(*(found.air("rerce", FEW, n) for n in (LATE, EARLY)))
        moved, spread = apart(late, early)
        notes.append(
            f"Anchored between rounds {EARLY} and {LATE}: the mean over seeds moved by {moved:.2f} +- {spread:.2f} dB."
        )
        bars += [
            Bar(f"air, 4 of 12 asked: anchored at round {EARLY}, dB", -24.0, *mean_spread(early)),
            Bar(f"air, 4 of 12 asked: anchored at round {LATE}, dB", -24.0, *mean_spread(late)),
            Bar("air: anchored, a seed moves between those rounds by, dB", 1.0, *mean_spread(_distances(early, late))),
            Bar("air: rerce drifts between those rounds, dB", 3.0, *drift, sense=">="),
        ]  # fmt: skip
        tables += air_tables(found)
    else:
        notes.append("Air data left out: no folder beijing-air in the data folder (--data or EDGEHOLD_DATA).")
    (ratio,) = found.values("ratio", kind="slope")
    bars += [
        Bar("drift measured over drift derived, at least", 0.85, ratio, 0.0, sense=">="),
        Bar("drift measured over drift derived, at most", 1.15, ratio, 0.0),
    ]
    return Report(bars, tables, notes)


def _distances(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [abs(a - b) for a, b in zip(one, other, strict=True)]


NOTES = (
    "Independent simulation: one or two runs in plain arrays; on the air data it left records with gaps out.",
    "Numbers travel as float32 where nothing else is said.",
    "float16 alone: every number is rounded up or down at random on both ways, and there is no other noise.",
    "Seeds draw data, cohorts and noise; on the air data cohorts and noise alone.",
    f"Drift: {SLOPE_RUNS} runs of ten devices with eight weights, the same noise both ways, all devices in every round.",
    "A device takes part from the first round that asks it; the authors' scripts have everybody answer in the first round.",
    "Air: PM2.5 of an hour from the ten other measurements of that hour and an intercept, all standardised, every tenth hour "
    "of the first three years; rho is a tenth of the mean eigenvalue.",
)
