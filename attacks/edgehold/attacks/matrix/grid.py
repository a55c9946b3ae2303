"""The cells of a matrix, controls among them, and everything that is refused before the first one is played."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgehold.attacks.byzantine import registry
from edgehold.attacks.byzantine.registry import RANKS, RECORDS, SIGNS, Card
from edgehold.attacks.byzantine.rule import ServerRule
from edgehold.attacks.eval.cells import Cell, key
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.eval.reproductions.byzantine import CONTROLS, RULES
from edgehold.attacks.matrix.audits import cells as audit_cells
from edgehold.attacks.matrix.plan import Assault, Data, Defence, Matrix
from edgehold.attacks.privacy.membership.run import there
from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry as methods
from edgehold.defenses.baselines.rules import PRE_STEPS
from edgehold.defenses.baselines.rules import RULES as KNOWN_RULES

AUDITS = "of the audits"
"""Stands among data that are missing when it is that of the audits."""
AVERAGE, CLEAN = "average", "none"
"""The defence that is none, and the attack that is none: both controls are in every matrix."""
CARRY = {"fedavg": "changes", "dp_fedavg": "changes", "frl": RANKS, "hidenseek": SIGNS}
"""Methods that a matrix plays -> what their updates carry."""
BARS = {"accuracy": 0.05, "recall": 0.3, "resisted": 0.3, "resisted_bars": 0.3}
"""What an attack must cost the average unless its table says otherwise, by what it is measured in."""
STAND_IN = Assault(name="sign_flip", options={"scale": 5.0})
"""What liars do to the average whose lies only fit votes: they send five times the opposite of what they learned."""


@dataclass(frozen=True, slots=True)
class Threat:
    """An attack of the matrix. label: its name there. measure: the fact that it is judged by, higher is better for the defence.

    control: the label under which it is played where nobody defends.
    """

    label: str
    card: Card
    options: Mapping[str, Any]
    told: str
    measure: str
    bar: float
    control: str

    def fits(self, method: str) -> bool:
        """Whether this method's updates can carry the lie."""
        carried = CARRY[method]
        return self.card.applies in (carried, RECORDS) or (carried == "changes" and self.card.applies not in (RANKS, SIGNS))


class Grid:
    """A matrix, checked. `ConfigError` or `NotGranted` for what cannot be played as it stands.

    data: folder of the data sets, None where there is none. missing: data left out, for whoever only looks at what was played.
    """

    def __init__(self, matrix: Matrix, data: Path | None = None, missing: Sequence[str] | None = None) -> None:
        self.matrix = matrix
        if missing is None:
            missing = [name for name in matrix.matrix.data if self._absent(name, data)]
            missing += [AUDITS] if self._audits_absent(data) else []
        self.missing = tuple(missing)
        self.data = {name: matrix.data[name] for name in matrix.matrix.data if name not in self.missing}
        if not self.data:
            raise ConfigError("no data set of the matrix is there; give their folder (--data or EDGEHOLD_DATA)", field="data")
        names = [AVERAGE, *(name for name in matrix.matrix.defences if name != AVERAGE)]
        self.defences = {name: self._defence(name) for name in names}
        self.attacks = {name: self._attack(name) for name in matrix.matrix.attacks}
        for one in self.attacks.values():
            matrix.granted.grant(one.card.needs, f"attack {one.label}")
        self._sweeps()
        self._unused()
        if matrix.audits:
            matrix.audits.must_be_sound()
        for cell in self.cells(1):
            checked(cell)

    def cells(self, seeds: int = 0) -> list[Cell]:
        """Every cell once: neighbours share their data, so that a process loads little. seeds: 0: those of the matrix."""
        found: dict[str, Cell] = {}
        for data, share, defences, attacks in self._parts():
            for seed in range(seeds or self.matrix.matrix.seeds):
                for defence in defences:
                    for attack in (CLEAN, *attacks):
                        for one in self._pair(data, share, defence, attack, seed):
                            found.setdefault(key(one), one)
        return sorted(found.values(), key=lambda cell: (cell["data"], cell["seed"]))

    def audits(self) -> list[Cell]:
        """Cells of the audits: longest first, so that none of them is alone at the end."""
        return audit_cells(self.matrix.audits, AUDITS in self.missing) if self.matrix.audits else []

    def pairs(self) -> Iterator[tuple[str, float, str, Threat]]:
        """(data, share, defence, attack) that the matrix asks for and that can be played, the average first."""
        done = set()
        for data, share, defences, attacks in self._parts():
            for defence in defences:
                for attack in attacks:
                    place = (data, share, defence, attack)
                    if place not in done and self.plays(data, defence, attack):
                        done.add(place)
                        yield data, share, defence, self.attacks[attack]

    def plays(self, data: str, defence: str, attack: str) -> bool:
        """Whether that defence meets that attack there."""
        one = self.defences[defence]
        return (not one.data or data in one.data) and self.attacks[attack].fits(one.method)

    def cell(self, data: str, share: float, defence: str, attack: str, seed: int) -> Cell:
        """One of the matrix; attack: a label, `CLEAN`, or a control's."""
        there, guard = self.data[data], self.defences[defence]
        liars = liars_of(there.honest, share)
        lie = self._lie(attack)
        usual = {"hidden": [32]} if there.model == "mlp" else {}
        dealt = {
            "dataset": there.dataset, "partition": there.partition, "holders": there.honest, "seed": seed, "model": there.model,
            "net": {**usual, **there.net, **guard.net},
        }  # fmt: skip
        dealt |= {"alpha": there.alpha, "min_records": there.min_records} if there.partition == "dirichlet" else {}
        more = {"limit": there.limit, "test_limit": there.test_limit, "scale": guard.scale or there.scale}
        dealt |= {name: value for name, value in more.items() if value}
        return {
            "data": data, "dealt": dealt, "honest": there.honest, "liars": liars, "rounds": guard.rounds or there.rounds,
            "defence": defence, "method": _table(guard, there, liars), "attack": attack, "lie": lie,
            "knowledge": self.matrix.matrix.knowledge, "aim": [there.classes, there.source, there.target], "seed": seed,
        }  # fmt: skip

    def _lie(self, attack: str) -> dict[str, Any]:
        if attack == CLEAN:
            return {}
        if attack == _stand_in():
            return {"name": STAND_IN.name, "options": STAND_IN.options, "told": ""}
        one = self.attacks[attack]
        return {"name": one.card.name, "options": dict(one.options), "told": one.told}

    def _pair(self, data: str, share: float, defence: str, attack: str, seed: int) -> Iterator[Cell]:
        yield self.cell(data, share, AVERAGE, CLEAN, seed)
        guard = self.defences[defence]
        if guard.data and data not in guard.data:
            return
        yield self.cell(data, share, defence, CLEAN, seed)
        if attack != CLEAN and self.plays(data, defence, attack):
            yield self.cell(data, share, AVERAGE, self.attacks[attack].control, seed)
            yield self.cell(data, share, defence, attack, seed)

    def _parts(self) -> Iterator[tuple[str, float, Sequence[str], Sequence[str]]]:
        for data in self.data:
            for share in self.matrix.matrix.shares:
                yield data, share, list(self.defences), list(self.attacks)
        if sweep := self.matrix.sweep:
            for data in self.data:
                for share in sweep.shares:
                    if not sweep.data or data in sweep.data:
                        guards = [AVERAGE, *(name for name in sweep.defences or self.defences if name != AVERAGE)]
                        yield data, share, guards, sweep.attacks or list(self.attacks)

    def _absent(self, name: str, folder: Path | None) -> bool:
        if name not in self.matrix.data:
            raise ConfigError(
                f"matrix.data: no table [data.{name}]{suggest(name, list(self.matrix.data))}", field="matrix.data"
            )
        one = self.matrix.data[name]
        if one.dataset == "digits" or (folder is not None and (folder / one.dataset).is_dir()):
            return False
        if not one.optional:
            raise ConfigError(
                f"data.{name}: no folder {one.dataset} in the data folder {folder or '(none given)'}; give it with --data or "
                "EDGEHOLD_DATA, or say optional = true",
                field=f"data.{name}",
            )
        return True

    def _audits_absent(self, folder: Path | None) -> bool:
        audits = self.matrix.audits
        if audits is None:
            return False
        try:
            there(audits, folder)
        except ConfigError as error:
            if audits.optional:
                return True
            raise ConfigError(f"audits: {error.message}, or say optional = true", field="audits.dataset") from None
        return False

    def _defence(self, name: str) -> Defence:
        if name == AVERAGE and name not in self.matrix.defence:
            return Defence(rule=AVERAGE)
        found = self.matrix.defence.get(name)
        if found is None:
            parts = name.split("+")
            if name in CARRY and name != "fedavg":
                return Defence(method=name)
            if parts[-1] not in KNOWN_RULES or not set(parts[:-1]) <= set(PRE_STEPS):
                known = [*self.matrix.defence, *KNOWN_RULES, *(one for one in CARRY if one != "fedavg")]
                raise ConfigError(f"matrix.defences: unknown defence {name!r}{suggest(name, known)}", field="matrix.defences")
            return Defence(rule=name)
        if name == AVERAGE:
            raise ConfigError(f"[defence.{AVERAGE}] is the control where nobody defends; name yours otherwise", field="defence")
        if found.method not in CARRY:
            raise ConfigError(
                f"defence.{name}.method = {found.method!r}{suggest(found.method, list(CARRY))}", field=f"defence.{name}.method"
            )
        for place in found.data:
            if place not in self.matrix.data:
                raise ConfigError(
                    f"defence.{name}.data: {place!r}{suggest(place, list(self.matrix.data))}", field=f"defence.{name}.data"
                )
        return found

    def _attack(self, label: str) -> Threat:
        asked = self.matrix.attack.get(label, Assault())
        try:
            card = registry.find(asked.name or label)
        except ConfigError as error:
            raise ConfigError(f"matrix.attacks: {error.message}", field="matrix.attacks") from None
        if card.alone:
            raise ConfigError(f"matrix.attacks: {card.name} cannot be in a matrix: {card.alone}", field="matrix.attacks")
        how = CONTROLS.get(card.name)
        measure = {"recall": "recall", "success": "resisted"}.get(how.measure if how else "", "accuracy")
        measure = "recall" if card.entry.endswith("label_search:make") else measure
        measure = "resisted_bars" if card.name == "backdoor_bars" else measure
        for aim in ("classes", "source", "target"):
            if aim in asked.options:
                raise ConfigError(
                    f"attack.{label}: {aim} is the same for all attacks: set it in [data.NAME]", field=f"attack.{label}"
                )
        options = {name: value for name, value in (how.options if how else {}).items() if name not in ("source", "target")}
        options |= asked.options
        told = asked.told or (how.rule if how else "")
        control = label if card.applies not in (RANKS, SIGNS) else _stand_in()
        return Threat(label, card, options, told, measure, asked.bar or BARS[measure], control)

    def _sweeps(self) -> None:
        if sweep := self.matrix.sweep:
            for key, names, known in (
                ("defences", sweep.defences, [*self.defences]), ("attacks", sweep.attacks, [*self.attacks]),
                ("data", sweep.data, [*self.matrix.data]),
            ):  # fmt: skip
                for name in names:
                    if name not in known:
                        raise ConfigError(f"sweep.{key}: {name!r}{suggest(name, known)}", field=f"sweep.{key}")

    def _unused(self) -> None:
        for kind, tables, named in (
            ("defence", self.matrix.defence, self.defences), ("attack", self.matrix.attack, self.attacks),
            ("data", self.matrix.data, self.matrix.matrix.data),
        ):  # fmt: skip
            for name in tables:
                if name not in named:
                    raise ConfigError(
                        f"[{kind}.{name}] is in no list of [matrix]{suggest(name, list(named))}", field=f"{kind}.{name}"
                    )


def named(cell: Cell) -> str:
    """A cell in words."""
    if "audit" in cell:
        return f"audit {cell['audit'].replace('_', '-')} {cell['subject']} {told_epsilon(cell)}seed {cell['seed']}"
    return f"{cell['data']} {cell['defence']} {cell['attack']} seed {cell['seed']}"


def told_epsilon(cell: Cell) -> str:
    """ "epsilon 2 ", or nothing."""
    return f"epsilon {cell['epsilon']:g} " if cell.get("epsilon") else ""


def liars_of(honest: int, share: float) -> int:
    """How many liars join so many honest clients so that they are that share of all; at least one."""
    return max(1, round(honest * share / (1.0 - share)))


def plan_of(cell: Cell) -> str:
    """The run as a plan."""
    clients = cell["honest"] + cell["liars"]

    def plan(quorum: int) -> str:
        return whole_cohort(
            "matrix", cell["rounds"], cell["seed"], clients, cell["rounds"], cell["method"], max_attempts=1, quorum=quorum
        )

    if not cell["lie"]:
        return plan(clients)
    # Liars whose updates are refused are missing, which must not stop the others. A rule may need more of them than are left.
    fewest = plan(cell["honest"])
    try:
        parse_plan(fewest, methods.method)
    except ConfigError:
        return plan(clients)
    return fewest


def known_rule(cell: Cell) -> ServerRule:
    """What the liars take the server's rule for."""
    told = cell["lie"]["told"]
    name = told or cell["method"].get("rule", AVERAGE)
    options = RULES.get(name, {}) if told else cell["method"].get("rule_options", {})
    return ServerRule(name, 0 if name == AVERAGE else cell["liars"], options)


def checked(cell: Cell) -> None:
    """`ConfigError` where the plan, the rule or the attack of a cell cannot be."""
    where = f"{cell['defence']} on {cell['data']} with {cell['liars']} liars of {cell['honest'] + cell['liars']}"
    try:
        parse_plan(plan_of(cell), methods.method)
        if lie := cell["lie"]:
            card = registry.find(lie["name"])
            if card.on_updates:
                registry.attack_of(card.name, lie["options"])
            if lie["told"]:
                _ = known_rule(cell).recipe
    except ConfigError as error:
        raise ConfigError(f"{where}, attack {cell['attack']}: {error.message}", field=error.field) from None


def _stand_in() -> str:
    return f"{STAND_IN.name} x{STAND_IN.options['scale']:g}"


def _table(guard: Defence, there: Data, liars: int) -> dict[str, Any]:
    """The [method] table of a plan."""
    table: dict[str, Any] = {"name": guard.method}
    if CARRY[guard.method] == "changes":
        table |= there.training
    if guard.method == "fedavg":
        rule = guard.rule or AVERAGE
        table |= {"rule": rule, "liars": 0 if rule == AVERAGE else liars}
        if guard.options:
            table["rule_options"] = dict(guard.options)
    return table | guard.settings
