"""`fl-eval membership`: trains what is missing of a study, keeps each model, and judges what is there."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgehold.attacks.eval.bars import Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, code, key, spread
from edgehold.attacks.eval.screen import progress
from edgehold.attacks.privacy.membership.judge import ALARMS, ATTACKS, NOT_ENOUGH, Figures, Finding, judge
from edgehold.attacks.privacy.membership.population import Role
from edgehold.attacks.privacy.membership.roc import Rate
from edgehold.attacks.privacy.membership.store import Kept, Store
from edgehold.attacks.privacy.membership.study import Named, Study
from edgehold.attacks.privacy.membership.train import Trained, checked, model_cell, train
from edgehold.core.errors import ConfigError, FlError

RESULT, PICTURE = "result.json", "roc.png"


@dataclass(frozen=True, slots=True)
class Outcome:
    """findings: by subject, one for each seed that is complete. models, missing: how many are there, and are not.

    facts: as in the JSON file. stopped: by Ctrl-C.
    """

    findings: Mapping[str, Sequence[Finding]]
    models: int
    missing: int
    facts: Mapping[str, Any]
    stopped: bool


def cells_of(study: Study, subject: str, seed: int) -> list[Cell]:
    """Target, stranger and shadow models of one seed, in this order."""
    roles: list[tuple[Role, int]] = [("target", 0), ("stranger", 0), *(("shadow", index) for index in range(study.shadows))]
    return [model_cell(study, subject, role, index, seed) for role, index in roles]


def attack(study: Study, subject: str, seed: int, data: Path | None) -> Finding:
    """One seed of one subject from beginning to end, in this process; nothing is kept."""
    target, stranger, *shadows = [train(cell, data) for cell in cells_of(study, subject, seed)]
    return judge(study, seed, target, stranger, shadows)


def run(study: Named, data: Path | None, out: Path, workers: int) -> Outcome:
    """Play, judge, and write `result.json` and `roc.png` into `out`. After Ctrl-C: what is complete until then."""
    there(study, data)
    checked(study)
    places = [(subject, seed) for seed in range(study.seeds) for subject in study.subject]
    cells = [cell for subject, seed in places for cell in cells_of(study, subject, seed)]
    store = Store(out)
    try:
        stopped = _play(study.name, cells, store, data, workers)
        findings: dict[str, list[Finding]] = {subject: [] for subject in study.subject}
        kept: dict[str, Kept] = {}
        for subject, seed in places:
            mine = cells_of(study, subject, seed)
            here = store.models(mine)
            kept |= here
            if len(here) == len(mine):
                target, stranger, *shadows = [here[key(cell)].trained for cell in mine]
                findings[subject].append(judge(study, seed, target, stranger, shadows))
    finally:
        store.close()
    facts = {
        "name": study.name, "digest": study.digest, "seeds": study.seeds, "models": len(kept),
        "missing": len(cells) - len(kept), "commits": sorted({one.commit for one in kept.values()}),
        "processor_seconds": round(sum(one.seconds for one in kept.values()), 1),
        "subjects": {subject: _facts(study, subject, found) for subject, found in findings.items()},
    }  # fmt: skip
    _write(out, facts, findings)
    return Outcome(findings, len(kept), len(cells) - len(kept), facts, stopped)


def there(study: Study, data: Path | None) -> None:
    """`ConfigError` where the data set is not."""
    if study.dataset != "digits" and (data is None or not (data / study.dataset).is_dir()):
        raise ConfigError(
            f"no folder {study.dataset} in the data folder {data or '(none given)'}; give it with --data or EDGEHOLD_DATA",
            field="data",
        )


def tables(findings: Mapping[str, Sequence[Finding]]) -> list[Table]:
    """For terminals: mean and standard deviation over seeds."""
    rows, controls = [], []
    for subject, found in findings.items():
        if not found:
            continue
        accuracy = told([one.facts["accuracy"] for one in found])
        learnt = told([one.facts["accuracy_members"] for one in found])
        epsilon = f"{max(one.facts['epsilon'] for one in found):.2f}" if "epsilon" in found[0].facts else "none"
        for name in found[0].attacks:
            here = [one.attacks[name] for one in found]
            areas = told([one.auc for one in here])
            rows.append([subject, epsilon, accuracy, learnt, ATTACKS[name], areas, *(_rates(here, alarm) for alarm in ALARMS)])
            strangers = [one.strangers[name] for one in found]
            controls.append([subject, ATTACKS[name], told([one.auc for one in strangers]),
                             *(_rates(strangers, alarm) for alarm in ALARMS)])  # fmt: skip
    rates = [f"TPR at {100 * alarm:g} % FPR" for alarm in ALARMS]
    heads = ("subject", "epsilon", "accuracy", "on members", "attack", "AUC", *rates)
    return [
        Table("membership", heads, rows),
        Table("control: a model that never saw the pool", ("subject", "attack", "AUC", *rates), controls),
    ]


def rates_told(rates: Sequence[Rate | None]) -> str:
    """Mean over runs, and in brackets the lowest and highest end of their exact intervals."""
    there = [one for one in rates if one]
    if len(there) < len(rates) or not there:
        return NOT_ENOUGH
    mean, _ = mean_spread([one.rate for one in there])
    return f"{100 * mean:.2f} % [{100 * min(one.low for one in there):.2f}, {100 * max(one.high for one in there):.2f}]"


def _rates(found: Sequence[Figures], alarm: float) -> str:
    return rates_told([one.rates[alarm] for one in found])


def _play(name: str, cells: Sequence[Cell], store: Store, data: Path | None, workers: int) -> bool:
    known = store.known()
    left = [cell for cell in cells if key(cell) not in known]
    done, commit = len(cells) - len(left), code()
    try:
        # Closed at once when Ctrl-C comes: else the processes would go on with all that is left.
        playing = spread(partial(_timed, data=data), left, min(workers, len(left)))
        with progress(name, len(cells), "models", done) as tell, closing(playing):
            for cell, (trained, seconds) in playing:
                store.keep(cell, Kept(trained, seconds, commit))
                done += 1
                where = f"{cell['subject']} seed {cell['seed']} {cell['role']} {cell['index']}"
                tell(done, f"{where} accuracy {trained.facts['accuracy']:.3f}")
    except KeyboardInterrupt:
        return True
    return False


def _timed(cell: Cell, data: Path | None) -> tuple[Trained, float]:
    began = time.process_time()
    return train(cell, data), time.process_time() - began


def _facts(study: Study, subject: str, found: Sequence[Finding]) -> dict[str, Any]:
    one = study.subject[subject]
    return {"method": one.method, "epsilon": one.epsilon, "delta": one.delta, "runs": [_run_facts(seed) for seed in found]}


def _run_facts(found: Finding) -> dict[str, Any]:
    return {
        **found.facts,
        "attacks": {name: figures_facts(one) for name, one in found.attacks.items()},
        "strangers": {name: figures_facts(one) for name, one in found.strangers.items()},
    }


def figures_facts(one: Figures) -> dict[str, Any]:
    """For JSON; a rate that cannot be had is null, and says why."""
    found: dict[str, Any] = {"auc": round(one.auc, 5)}
    for alarm, rate in one.rates.items():
        found[f"tpr_at_{alarm:g}"] = NOT_ENOUGH if rate is None else {
            "tpr": rate.rate, "low": rate.low, "high": rate.high, "hits": rate.hits, "members": rate.members,
            "alarms": rate.alarms, "non_members": rate.others, "fpr_low": rate.alarm_low, "fpr_high": rate.alarm_high,
        }  # fmt: skip
    return found


def _write(out: Path, facts: Mapping[str, Any], findings: Mapping[str, Sequence[Finding]]) -> None:
    from edgehold.attacks.privacy.membership.pictures import roc

    picture = roc({name: [one.attacks[best(one)].curve for one in found] for name, found in findings.items() if found})
    try:
        (out / RESULT).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        if picture:
            (out / PICTURE).write_bytes(picture.light)
    except OSError as error:
        raise FlError(f"{out}: cannot be written: {error}") from None


def best(found: Finding) -> str:
    """The attack whose curve is shown: fixed beforehand, not the one that came out best."""
    return "online" if "online" in found.attacks else "loss"
