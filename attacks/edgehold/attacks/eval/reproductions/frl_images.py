"""FRL on the paper's convolutional networks, scaled in clients, records and rounds: for long commands, never for quick ones.

Source: Mozaffari et al. 2023, arXiv:2110.04350 (1,000 clients, 25 per round, 2,000 rounds, all records). Here 100 clients at
Dirichlet 1, 25 of them per round, at most `records` records each. The average meets what ruins it, FRL reversed votes.
`frl_fashion` and `frl_cifar10` are the two studies. A round of FRL with LeNet took 40 processor seconds, one of FedAvg 18, so
that a seed of `frl_fashion` takes some 40 minutes of one core. A round of FRL with Conv8 took 110
processor seconds, one of FedAvg 75: a seed of `frl_cifar10` takes 75 minutes, and its 12 rounds are too few to learn anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgehold.attacks.byzantine.plot import Plot
from edgehold.attacks.byzantine.sign_flip import SignFlip
from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.conspiracies import Ranks
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.eval.reproductions import Options
from edgehold.core.errors import ConfigError, FlError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

CLIENTS, COHORT, LIARS, CHANCE = 100, 25, 20, 0.1
CLEAN, BOOST, REVERSE = "none", "update x -5", "reverse"
WITHIN, LOSS, FALLEN = 0.04, 0.08, 0.40
TASK = "edgehold.attacks.eval.data:make_task"
ROWS = (
    ("frl", "", CLEAN), ("frl", "", REVERSE), ("fedavg", "average", CLEAN), ("fedavg", "average", BOOST),
    ("fedavg", "trimmed_mean", CLEAN), ("fedavg", "trimmed_mean", BOOST), ("fedavg", "multi_krum", CLEAN),
    ("fedavg", "multi_krum", BOOST), ("fedavg", "sign_majority", CLEAN), ("fedavg", "sign_majority", BOOST),
)  # fmt: skip
RATES = {"frl": 0.4, "fedavg": 0.05}
STEP = 0.002
"""Of sign_majority. Neither this nor FedAvg's rate was searched; FRL's is its paper's."""


@dataclass(frozen=True, slots=True)
class Study:
    """One data set and network. epochs: local; records: of a client at most; tests: records the model is scored on; cohort: of
    the clients, in each round; liars: of the clients.
    """

    name: str
    dataset: str
    model: str
    epochs: int
    rounds: int
    records: int
    tests: int
    clients: int = CLIENTS
    cohort: int = COHORT
    liars: int = LIARS
    rows: tuple[tuple[str, str, str], ...] = ROWS

    def cells(self, options: Options) -> list[Cell]:
        """Every row of the table for every seed. `ConfigError` without the data."""
        if not options.has(self.dataset):
            raise ConfigError(f"{self.name} needs {self.dataset}: set --data to a folder that has it", field="data")
        return [
            {"dataset": self.dataset, "method": method, "rule": rule, "attack": attack, "rounds": self.rounds,
             "records": self.records, "learning_rate": RATES[method], "seed": seed}
            for seed in range(options.seeds)
            for method, rule, attack in self.rows
        ]  # fmt: skip

    def play(self, cell: Cell, data: Path | None) -> dict[str, float]:
        """Accuracy after the last round, and bytes of an update."""
        try:
            result = self.simulate(cell, data)
        except FlError as error:
            if cell["attack"] != BOOST or "updates admitted" not in error.message:
                raise
            return {"accuracy": CHANCE, "broken": 1.0}
        last = result.rounds[-1]
        return {"accuracy": last["accuracy"], "update_bytes": last["bytes_up"] / last["clients_admitted"]}

    def simulate(self, cell: Cell, data: Path | None, store: engine.Store | None = None) -> engine.Result:
        """The run in one process. store: keeps its state."""
        fleet = engine.VirtualFleet(TASK, self.dealt(cell, data), self.clients)
        members = frozenset(list(fleet)[: self.liars])
        lies = {CLEAN: None, BOOST: Plot(members, SignFlip(5.0)), REVERSE: Ranks(members, REVERSE, None, True)}
        plan, settings = parse_plan(self.plan(cell), registry.method)
        return engine.run(plan, settings, fleet, fleet.own_copy(), conspiracy=lies[cell["attack"]], store=store)

    def dealt(self, cell: Cell, data: Path | None) -> dict[str, Any]:
        """Arguments of `TASK`, but for the device's index and the number of devices."""
        return {
            "dataset": self.dataset, "path": str((data or Path()) / self.dataset), "model": self.model, "net": {"bias": False},
            "partition": "dirichlet", "alpha": 1.0, "min_records": 8, "limit": cell["records"], "test_limit": self.tests,
            "seed": cell["seed"],
        }  # fmt: skip

    def judge(self, options: Options, played: Sequence[Played]) -> Report:
        """Clean FRL against FedAvg, what reversal costs it, and that the average falls."""

        def values(method: str, rule: str, attack: str) -> list[float]:
            wanted = {"method": method, "rule": rule, "attack": attack}
            return [one.value["accuracy"] for one in played if wanted.items() <= one.cell.items()]

        clean, average, held = values("frl", "", CLEAN), values("fedavg", "average", CLEAN), values("frl", "", REVERSE)
        gaps = [one - other for one, other in zip(average, clean, strict=True)]
        losses = [one - other for one, other in zip(clean, held, strict=True)]
        bars = [
            Bar("nobody lies: fedavg minus frl", WITHIN, *mean_spread(gaps)),
            Bar("frl: lost when 20 % vote in reverse", LOSS, *mean_spread(losses)),
            Bar("fedavg, 20 % send -5 times theirs: accuracy", FALLEN, *mean_spread(values("fedavg", "average", BOOST))),
        ]
        rows = [[method, rule, attack, told(values(method, rule, attack))] for method, rule, attack in self.rows]
        title = f"{self.dataset}, {self.model}, {self.rounds} rounds of {self.cohort} of {self.clients} clients"
        notes = [
            f"{self.liars} of {self.clients} clients lie, fewer than half in a round of FRL.",
            f"A client has at most {self.records} records; accuracy on {self.tests} test records.",
        ]
        if broken := sum("broken" in one.value for one in played):
            notes.append(f"{broken} run(s) ended because the attack blew up the model: they count as {CHANCE}.")
        return Report(bars, [Table(title, ("method", "rule", "attack", "accuracy"), rows)], notes)

    def plan(self, cell: Cell) -> str:
        """The run as TOML."""
        how = {"name": cell["method"], "local_epochs": self.epochs, "batch_size": 8, "learning_rate": cell["learning_rate"]}
        if cell["rule"]:
            how |= {"rule": cell["rule"], "liars": 0 if cell["rule"] == "average" else self.cohort // 5}
        if cell["rule"] == "sign_majority":
            how["rule_options"] = {"step": STEP}
        waits = {"join_deadline_s": 120.0, "round_deadline_s": 1800.0}
        return whole_cohort(self.name, cell["rounds"], cell["seed"], self.cohort, cell["rounds"], how, **waits)
