"""The report of a matrix: one page that needs nothing else, and the same facts as JSON, CSV and pictures beside it."""

import base64
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from edgehold.attacks.matrix.audited import Share
from edgehold.attacks.matrix.grid import AVERAGE, Grid, named
from edgehold.attacks.matrix.judge import Judged, Row, judge, liars_told, tracebacks
from edgehold.attacks.matrix.pictures import pictures
from edgehold.attacks.matrix.plan import parse
from edgehold.attacks.matrix.store import Store
from edgehold.attacks.matrix.themes import Picture
from edgehold.attacks.matrix.verdict import Estimate, Verdict
from edgehold.attacks.privacy.membership.judge import ATTACKS, NOT_ENOUGH
from edgehold.core.about import VERSION
from edgehold.core.errors import ConfigError, FlError

PAGE, FACTS, CELLS, VERDICTS = "report.html", "report.json", "cells.csv", "verdicts.csv"
FACT_NAMES = ("accuracy", "recall", "resisted", "resisted_bars", "bytes_up", "bytes_down", "refused", "epsilon", "broken")
MEASURED = {
    "accuracy": "accuracy on the server's test records",
    "recall": "share of one class's test records that are recognised",
    "resisted": "share of test records that the trigger does not turn",
    "resisted_bars": "share of test records that the trigger in four bars does not turn",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What was written, and what it says. facts: as in the JSON file."""

    page: Path
    facts: Mapping[str, Any]


def write(folder: Path, inversions: Sequence[Path] = ()) -> Report:
    """The report on what is kept in a folder, into that folder. inversions: `result.json` files of `fl-eval invert`."""
    store = Store.there(folder)
    try:
        (text, missing), outcomes, calls = store.bound(), store.outcomes(), store.calls()
    finally:
        store.close()
    grid = Grid(parse(text, "the kept matrix"), missing=missing)
    judged = judge(grid, outcomes)
    facts = facts_of(grid, judged) | {"calls": calls}
    drawn = pictures(grid, judged)
    shown = [_inversion(path) for path in inversions]
    try:
        for one in drawn:
            (folder / f"{one.name}.png").write_bytes(one.light)
        (folder / FACTS).write_text(_lines(facts), encoding="utf-8")
        _table(folder / CELLS, _cell_rows(judged.rows))
        _table(folder / VERDICTS, [_verdict_row(one) for one in judged.verdicts])
        (folder / PAGE).write_text(html(grid, judged, drawn, facts, shown), encoding="utf-8")
    except OSError as error:
        raise FlError(f"{folder}: cannot be written: {error}") from None
    return Report(folder / PAGE, facts)


def facts_of(grid: Grid, judged: Judged) -> dict[str, Any]:
    """Everything that the same matrix gives again, and beside it processor seconds, which it does not."""
    head = grid.matrix.matrix
    return {
        "matrix": head.name, "settings": msgspec.to_builtins(grid.matrix), "digest": grid.matrix.digest,
        "version": VERSION, "seeds": head.seeds,
        "knowledge": head.knowledge, "commits": sorted({row.outcome.commit for row in (*judged.rows, *judged.audit_rows)}),
        "left_out": list(grid.missing), "cells": len(judged.rows) + len(judged.audit_rows),
        "waiting": judged.waiting, "failed": len(judged.failed),
        "attacks": [_threat(grid, label) for label in grid.attacks],
        "verdicts": [asdict(one) for one in judged.verdicts], "worst": [asdict(one) for one in judged.worst],
        "comparisons": [asdict(one) for one in judged.comparisons], "prices": [asdict(one) for one in judged.prices],
        "runs": [
            {"digest": row.digest, **{name: row.cell[name] for name in ("data", "defence", "attack", "liars", "seed")},
             "clients": row.cell["honest"] + row.cell["liars"], "facts": dict(row.outcome.facts),
             "seconds": round(row.outcome.seconds, 3), "commit": row.outcome.commit, "error": tracebacks(row.outcome.error)}
            for row in judged.rows
        ],
        "membership": [asdict(one) for one in judged.audited.membership],
        "bounds": [asdict(one) for one in judged.audited.bounds],
        "accuracy_by_epsilon": [asdict(one) for one in judged.audited.points],
        "audits": [
            {"digest": row.digest, **{name: row.cell.get(name) for name in ("audit", "subject", "epsilon", "seed")},
             "facts": dict(row.outcome.facts), "seconds": round(row.outcome.seconds, 3), "commit": row.outcome.commit,
             "error": tracebacks(row.outcome.error)}
            for row in judged.audit_rows
        ],
    }  # fmt: skip


def html(
    grid: Grid, judged: Judged, drawn: Sequence[Picture], facts: Mapping[str, Any], shown: Sequence[Mapping[str, Any]]
) -> str:  # fmt: skip
    """The page."""
    from jinja2 import Environment, StrictUndefined

    home = files("edgehold.attacks.matrix")
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"told": told, "points": points, "image": image, "share": share}
    head = grid.matrix.matrix
    first = head.shares[0]
    heat = {(v.data, v.defence, v.attack): v for v in judged.verdicts if v.share == first}
    met = {(data, attack) for data, _, attack in heat}
    return made.from_string((home / "page.html.j2").read_text(encoding="utf-8")).render(
        grid=grid, head=head, judged=judged, facts=facts, pictures={one.name: one for one in drawn}, heat=heat, first=first,
        average=AVERAGE, style=(home / "page.css").read_text(encoding="utf-8"), liars=liars_told,
        rows=judged.rows, inversions=shown, tracebacks=tracebacks, measured=MEASURED,
        named=named, audits=grid.matrix.audits, names=ATTACKS, calls=facts["calls"], colour=colour, granted=grid.matrix.granted,
        places=list(dict.fromkeys((one.data, one.share) for one in judged.worst)),
        columns={data: [name for name in grid.attacks if (data, name) in met] for data in grid.data},
    )  # fmt: skip


def told(one: Estimate | None) -> str:
    """A mean and its interval, in thousandths."""
    return f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]" if one else "-"


def share(one: Share | None) -> str:
    """In per cent, with its interval."""
    return f"{100 * one.mean:.2f} [{100 * one.low:.2f}, {100 * one.high:.2f}]" if one else NOT_ENOUGH


def points(one: Estimate | None) -> str:
    """A difference in hundredths, with its interval."""
    return f"{100 * one.mean:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]" if one else "-"


def image(png: bytes) -> str:
    """For `src`."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def colour(value: float) -> str:
    """Background of a score from 0 (red) over yellow to 1 (green)."""
    return f"hsl({round(120 * min(1.0, max(0.0, value)))} 65% 72%)"


def _lines(facts: Mapping[str, Any]) -> str:
    """JSON with one line per entry of each list: small, and still fit for a difference of two reports."""
    parts = []
    for name, value in facts.items():
        many = isinstance(value, list) and value and isinstance(value[0], dict)
        told = "[\n" + ",\n".join(json.dumps(_rounded(one)) for one in value) + "\n]" if many else json.dumps(value)
        parts.append(f"{json.dumps(name)}: {told}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def _threat(grid: Grid, label: str) -> dict[str, Any]:
    one = grid.attacks[label]
    card = one.card
    return {
        "attack": label, "name": card.name, "nist": card.nist, "goal": card.goal, "needs": str(card.needs),
        "summary": card.summary, "source": card.source, "measure": one.measure, "bar": one.bar, "options": dict(one.options),
        "told": one.told, "control": one.control,
    }  # fmt: skip


def _cell_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {
            "digest": row.digest, "data": row.cell["data"], "defence": row.cell["defence"], "attack": row.cell["attack"],
            "liars": row.cell["liars"], "clients": row.cell["honest"] + row.cell["liars"], "seed": row.cell["seed"],
            **{name: row.outcome.facts.get(name, "") for name in FACT_NAMES}, "seconds": round(row.outcome.seconds, 3),
            "commit": row.outcome.commit, "failed": bool(row.outcome.error),
        }
        for row in rows
    ]  # fmt: skip


def _verdict_row(one: Verdict) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in asdict(one).items():
        if name in ("value", "baseline", "ceiling", "clean", "fall", "gain", "loss", "own"):
            for part in ("mean", "low", "high"):
                row[f"{name}_{part}"] = "" if value is None else value[part]
        else:
            row[name] = value
    return row


def _table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if rows:
            out = csv.DictWriter(file, list(rows[0]))
            out.writeheader()
            out.writerows(rows)


def _inversion(path: Path) -> dict[str, Any]:
    """A result of `fl-eval invert` with its pictures, which lie beside it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            "run": str(found["run"]), "method": str(found["method"]), "attack": str(found["attack"]),
            "results": [
                {"client": str(one["client"]), "round": int(one["round"]), "psnr": one.get("median_psnr"),
                 "note": str(one["note"]), "picture": (path.parent / Path(one["picture"]).name).read_bytes()}
                for one in found["results"] if "picture" in one
            ],
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not a result of `fl-eval invert` with its pictures beside it: {error!r}", field="inversion"
        ) from None
