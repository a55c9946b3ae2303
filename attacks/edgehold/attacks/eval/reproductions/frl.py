"""FRL: liars who vote upside down cost little accuracy, and rankings are smaller than weights.

Source: Mozaffari et al. 2023, arXiv:2110.04350. Scaled: standardised digits over 20 clients at Dirichlet 1, ten of them per
round, perceptrons without biases. The paper's code draws rounds with half or more liars again: one cell has at most four of
ten lie, the others take what the draw brings.
VEM and the band attack are told without a bar: nobody has shown that FRL withstands them.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.plot import Plot
from edgehold.attacks.byzantine.sign_flip import SignFlip
from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.conspiracies import Ranks
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.eval.reproductions import Options
from edgehold.core.errors import FlError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

NAME = "frl"
SUMMARY = "Rank votes on the digits: near FedAvg without liars, held against reversed votes where the average falls"

CLIENTS, COHORT, ROUNDS = 20, 10, 20
RATES = {"frl": 0.4, "fedavg": 0.2}
"""FRL's own; for FedAvg the best of 0.05, 0.1, 0.2 and 0.4 with nobody lying."""
TOPS = (0.5, 0.1)
FEW = 3
"""Seeds of cells without a bar, at most."""
MINORITY = "reverse, minority"
LEAST, WITHIN, HELD, FALLEN = 0.94, 0.04, 0.85, 0.50
NARROW, WIDE = (128, 128), (512, 512)
CLEAN = "none"
CHANCE = 0.1
BOOST = "update x -5"
CAP = 500
RANK_LIES = ("reverse", MINORITY, "swap_half", "swap_half_reverse", "band", "press", "vem", "vem capped")
FLOAT_BYTES = 4 * (64 * 128 + 128 * 128 + 128 * 10)


def cells(options: Options) -> list[Cell]:
    """Both methods with nobody lying and under attack; the rest of the table and the wide net beside the bars."""
    wanted: list[tuple[str, str, int, tuple[int, ...], int, float]] = [
        ("fedavg", CLEAN, 0, NARROW, options.seeds, 1.0),
        ("fedavg", BOOST, 4, NARROW, options.seeds, 1.0),
        ("frl", CLEAN, 0, NARROW, options.seeds, 1.0),
        ("frl", "reverse", 4, NARROW, options.seeds, 1.0),
    ]
    if not options.quick:
        few = min(options.seeds, FEW)
        wanted += [("frl", attack, 8, NARROW, few, 1.0) for attack in (MINORITY, "reverse", "vem")]
        wanted += [("frl", lie, 4, NARROW, few, 1.0) for lie in RANK_LIES if not lie.startswith("reverse")]
        wanted += [("frl", attack, liars, NARROW, few, top) for top in TOPS for attack, liars in _SPARSE]
        wanted += [("frl", CLEAN, 0, WIDE, 1, 1.0), *(("frl", lie, 4, WIDE, 1, 1.0) for lie in ("reverse", "band", "vem"))]
    return [
        {"method": method, "attack": attack, "liars": liars, "hidden": list(hidden), "rounds": ROUNDS,
         "learning_rate": RATES[method], "scale": "standard", "top": top, "seed": seed}
        for method, attack, liars, hidden, seeds, top in wanted
        for seed in range(seeds)
    ]  # fmt: skip


_SPARSE = ((CLEAN, 0), ("reverse", 4))
"""What is played with only the top edges sent."""


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """Accuracy after the last round and the lowest on the way; bytes of an update; share of the mask that lies flipped."""
    dealt = {
        "dataset": "digits", "model": "mlp", "net": {"hidden": cell["hidden"], "bias": False},
        "partition": "dirichlet", "alpha": 1.0, "min_records": 8, "seed": cell["seed"],
        "scale": cell["scale"],
    }  # fmt: skip
    fleet = engine.VirtualFleet("edgehold.attacks.eval.data:make_task", dealt, CLIENTS)
    members = frozenset(list(fleet)[: cell["liars"]])
    attack = cell["attack"]
    conspiracy: Plot | Flips | None = None
    if attack == BOOST:
        conspiracy = Plot(members, SignFlip(5.0))
    elif attack != CLEAN:
        lie = attack.replace(",", " ").partition(" ")[0]
        conspiracy = Flips(Ranks(members, lie, CAP if attack.endswith("capped") else None, attack == MINORITY))
    plan, settings = parse_plan(_plan(cell), registry.method)
    try:
        result = engine.run(plan, settings, fleet, fleet.own_copy(), conspiracy=conspiracy)
    except FlError as error:
        if attack != BOOST or "updates admitted" not in error.message:
            raise
        return {"accuracy": CHANCE, "lowest": CHANCE, "broken": 1.0}
    scores = [facts["accuracy"] for facts in result.rounds]
    found = {"accuracy": scores[-1], "lowest": min(scores[ROUNDS // 2 :])}
    found["update_bytes"] = result.rounds[-1]["bytes_up"] / result.rounds[-1]["clients_admitted"]
    if "edges_contested" in result.rounds[-1]:
        found["contested"] = statistics.fmean(facts["edges_contested"] for facts in result.rounds)
    if isinstance(conspiracy, Flips) and conspiracy.shares:
        found["flipped"] = statistics.fmean(conspiracy.shares)
    return found


@dataclass
class Flips:
    """Plays `lies` and notes which share of the mask each round's lies flip, against the same clients voting honestly."""

    lies: Ranks
    shares: list[float] = field(default_factory=list)

    @property
    def members(self) -> frozenset[str]:
        """See `Ranks`."""
        return self.lies.members

    def lie(self, view: engine.View) -> Mapping[str, Any]:
        """See the class."""
        told = self.lies.lie(view)
        honest, lied = (view.outcome(votes).whole() != 0 for votes in (view.own, told))
        self.shares.append(float(np.mean(honest != lied)))
        return told


def judge(options: Options, played: Sequence[Played]) -> Report:
    """Bars on the narrow net; everything else is told."""

    def values(
        method: str, attack: str, liars: int, name: str = "accuracy", hidden: Sequence[int] = NARROW,
        top: float = 1.0,
    ) -> list[float]:  # fmt: skip
        wanted = {"method": method, "attack": attack, "liars": liars, "hidden": list(hidden), "top": top}
        return [p.value[name] for p in played if wanted.items() <= p.cell.items() and name in p.value]

    clean, average = values("frl", CLEAN, 0), values("fedavg", CLEAN, 0)
    size = max(values("frl", CLEAN, 0, "update_bytes"))
    gaps = [one - other for one, other in zip(average, clean, strict=True)]
    bars = [
        Bar("frl, nobody lies: accuracy", LEAST, *mean_spread(clean), sense=">="),
        Bar("nobody lies: fedavg minus frl", WITHIN, *mean_spread(gaps)),
        Bar("frl, 20 % vote in reverse: accuracy", HELD, *mean_spread(values("frl", "reverse", 4)), sense=">="),
        Bar("fedavg, 20 % send -5 times theirs: accuracy", FALLEN, *mean_spread(values("fedavg", BOOST, 4))),
        Bar("bytes of a frl update, of those of float32 weights", 0.43, size / FLOAT_BYTES, 0.0),
    ]
    rows: list[list[str]] = []
    wide: list[list[str]] = []
    for method, attack, liars in sorted({(p.cell["method"], p.cell["attack"], p.cell["liars"]) for p in played}, key=_place):
        for hidden, into in ((NARROW, rows), (WIDE, wide)):
            if scores := values(method, attack, liars, hidden=hidden):
                low = told(values(method, attack, liars, "lowest", hidden))
                flips = values(method, attack, liars, "flipped", hidden)
                share = f"{100 * statistics.fmean(flips):.1f} %" if flips else ""
                open_ = values(method, attack, liars, "contested", hidden)
                reach = f"{100 * statistics.fmean(open_):.1f} %" if open_ else ""
                into.append([method, attack, f"{liars} of {CLIENTS}", told(scores), low, share, reach])
    sparse = [
        [
            f"{100 * top:g} %",
            attack,
            f"{liars} of {CLIENTS}",
            told(scores),
            f"{values('frl', attack, liars, 'update_bytes', top=top)[0]:.0f}",
        ]
        for attack, liars in _SPARSE
        for top in (1.0, *TOPS)
        if (scores := values("frl", attack, liars, top=top))
    ]
    heads = (
        "method", "attack", "liars", "accuracy", "lowest in the second half", "mask flipped by the lies", "edges contested",
    )  # fmt: skip
    tables = [Table(f"digits, 64-128-128-10, {ROUNDS} rounds of {COHORT} of {CLIENTS} clients, mean +- sd", heads, rows)]
    if not options.quick:
        heads_ = ("ranks sent", "attack", "liars", "accuracy", "bytes of an update")
        tables.append(Table("only the top edges of each layer sent", heads_, sparse))
    if wide:
        tables.append(Table("digits, 64-512-512-10, one seed", heads, wide))
    return Report(bars, tables, _notes(options, played))


def _notes(options: Options, played: Sequence[Played]) -> list[str]:
    notes = ["Liars are a fifth (or two fifths) of all clients; how many of them vote in a round is left to the draw."]
    if not options.quick:
        notes.append(f"Rows without a bar have {FEW} seeds.")
        notes.append("reverse, minority: as reverse, but at most four of ten lie in a round; the others drawn vote honestly.")
        notes.append("Edges contested: share that two liars of the round could take across the cut, mean over rounds.")
        notes.append(f"vem capped: at most {CAP} edges on either side of the cut. VEM and band have no bar.")
        notes.append("Mask flipped: share of the edges that the lies took in or out, mean over the rounds that had liars.")
    if broken := sum("broken" in p.value for p in played):
        notes.append(f"{broken} run(s) of FedAvg ended because the attack blew up the model: they count as {CHANCE}.")
    return notes


def _place(row: tuple[str, str, int]) -> tuple[str, int, int]:
    return row[0], row[2], (CLEAN, BOOST, *RANK_LIES).index(row[1])


def _plan(cell: Cell) -> str:
    how = {"name": cell["method"], "local_epochs": 2, "batch_size": 8, "learning_rate": cell["learning_rate"]}
    if cell["method"] == "frl":
        how |= {"upload": "top", "top": cell["top"], "liars": 2}
    return whole_cohort("frl", cell["rounds"], cell["seed"], COHORT, 1, how)
