"""DP-EF SGD and DP-SGD with a small convolutional network on Fashion-MNIST, ten clients, over clips, epsilons and rates. Long.

The table is played in one process; two of its cells over ten real daemons as well, whose ledgers are charged.

Each client is charged (epsilon, 1e-5) for its own records. Whichever method wins a cell is printed; the bar is about the
smallest clip, each method at its best rate.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from edgehold.attacks.eval import daemons
from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.reproductions import Options
from edgehold.attacks.eval.reproductions.dp_ef_sgd import METHODS, plan_of
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.defenses.dp_ef_sgd.accounts import noise_for
from edgehold.defenses.dp_ef_sgd.state import Training
from edgehold.server import engine

NAME = "dp_ef_sgd_fashion"
SUMMARY = "DP-EF SGD and DP-SGD, small CNN on Fashion-MNIST, ten clients, clips x epsilons x rates (long); needs --data"

DATASET, CLIENTS, ROUNDS, BINS, RECORDS, TESTS = "fashion-mnist", 10, 10, 8, 1000, 2000
SIZE, DELTA, AHEAD = 26_010, 1e-5, 0.02
CLIPS, EPSILONS = (0.1, 1.0, 10.0), (8.0, 2.0)
STEPS = (0.3, 1.0, 3.0, 10.0)
"""Rate times clip: how far a step of clipped gradients can go."""
EQUAL = 1.0
"""The step at which both methods are compared at equal rates."""
DAEMONS = {"where": "daemons"}


def cells(options: Options) -> list[Cell]:
    """Every clip, epsilon, method and rate; seed by seed. `ConfigError` without the data."""
    if not options.has(DATASET):
        raise ConfigError(f"{NAME} needs {DATASET}: set --data to a folder that has it", field="data")
    return [
        {"dataset": DATASET, "method": method, "clip": clip, "epsilon": epsilon, "step": step, "rounds": ROUNDS,
         "records": RECORDS, "seed": seed, **where}
        for seed in range(options.seeds)
        for where, epsilons, clips, steps in (({}, EPSILONS, CLIPS, STEPS), (DAEMONS, EPSILONS[:1], CLIPS[:1], (EQUAL,)))
        for epsilon in epsilons for clip in clips for step in steps for method in METHODS
    ]  # fmt: skip


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """Accuracy after the last round, and epsilon by the best account of the plan."""
    how = Training(clip=cell["clip"], learning_rate=cell["step"] / cell["clip"], batch_size=cell["records"] / BINS)
    if cell["method"] == "dp_ef_sgd":
        how = replace(how, ceiling=3 * cell["clip"], bins=BINS)
    else:
        how = replace(how, error_clip=0.0, sampling="poisson", rate=1 / BINS, steps=BINS)
    how = noise_for(how, SIZE, cell["rounds"], cell["epsilon"], DELTA)
    dealt = {
        "dataset": DATASET, "path": str((data or Path()) / DATASET), "model": "small-cnn", "partition": "iid",
        "limit": cell["records"], "test_limit": TESTS, "seed": cell["seed"],
    }  # fmt: skip
    text = plan_of(cell["method"], how, CLIENTS, cell["rounds"], cell["seed"])
    last: Mapping[str, float]
    if "where" in cell:
        with tempfile.TemporaryDirectory(prefix="daemons-") as folder:
            budgets = {daemons.NAME: (cell["epsilon"], DELTA)}
            last = daemons.federated(Path(folder) / "bed", text, dealt, CLIENTS, {}, budgets).latest.facts
    else:
        fleet = engine.VirtualFleet(daemons.TASK, dealt, CLIENTS)
        plan, settings = parse_plan(text, registry.method)
        last = engine.run(plan, settings, fleet, fleet.own_copy(), workers=1).rounds[-1]
    return {"accuracy": last["accuracy"], "epsilon": last["epsilon_worst"], "noise_multiplier": how.noise_multiplier}


def judge(options: Options, played: Sequence[Played]) -> Report:
    """Best rate of each, and who is ahead."""

    def values(method: str, clip: float, epsilon: float, step: float, where: str = "") -> list[float]:
        wanted = {"method": method, "clip": clip, "epsilon": epsilon, "step": step}
        fitting = [one for one in played if wanted.items() <= one.cell.items() and one.cell.get("where", "") == where]
        return [one.value["accuracy"] for one in fitting]

    def lead(where: str, epsilon: float, clip: float, steps: Mapping[str, float]) -> list[float]:
        here, plain = (values(method, clip, epsilon, steps[method], where) for method in METHODS)
        return [one - other for one, other in zip(here, plain, strict=True)]

    bars, rows = [], []
    for epsilon in EPSILONS:
        for clip in CLIPS:
            best = {
                method: max(STEPS, key=lambda step: mean_spread(values(method, clip, epsilon, step))[0]) for method in METHODS
            }
            ahead = lead("", epsilon, clip, best)
            if clip == min(CLIPS):
                equal = lead("", epsilon, clip, dict.fromkeys(METHODS, EQUAL))
                name = f"epsilon {epsilon:g}, clip {clip:g}: ahead, equal rates"
                bars.append(Bar(name, AHEAD, *mean_spread(equal), ">="))
                bars.append(Bar(f"epsilon {epsilon:g}, clip {clip:g}: ahead, best rates", AHEAD, *mean_spread(ahead), ">="))
            for method in METHODS:
                by_step = [told(values(method, clip, epsilon, step)) for step in STEPS]
                rows.append([f"{epsilon:g}", f"{clip:g}", method, *by_step, "yes" if _wins(method, ahead) else ""])
    real = lead("daemons", EPSILONS[0], CLIPS[0], dict.fromkeys(METHODS, EQUAL))
    name = f"ten real daemons, epsilon {EPSILONS[0]:g}, clip {CLIPS[0]:g}: ahead, equal rates"
    bars.append(Bar(name, AHEAD, *mean_spread(real), ">="))
    spent = [one.value["epsilon"] - one.cell["epsilon"] for one in played]
    bars.append(Bar("certified epsilon beyond the wanted one, largest of all runs", 0.0, max(spent), 0.0))
    title = f"{DATASET}, small CNN, {ROUNDS} rounds of {CLIENTS} clients of {RECORDS} records, by rate x clip"
    table = Table(title, ("epsilon", "clip", "method", *(f"{step:g}" for step in STEPS), "ahead"), rows)
    told_real = [(method, told(values(method, CLIPS[0], EPSILONS[0], EQUAL, "daemons"))) for method in METHODS]
    notes = [
        f"Rates were chosen on the {TESTS} test records that judge them. Ceiling: 3 x clip.",
        f"Equal rates: rate x clip = {EQUAL:g}. Over ten real daemons: "
        + ", ".join(f"{m} {value}" for m, value in told_real)
        + ".",
    ]
    return Report(bars, [table], notes)


def _wins(method: str, ahead: Sequence[float]) -> bool:
    mean = mean_spread(ahead)[0]
    return mean > 0 if method == METHODS[0] else mean < 0
