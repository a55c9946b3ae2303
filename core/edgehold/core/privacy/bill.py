"""The privacy ledger as a bill for its owner, by run, round and mechanism, and what is left of each budget."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgehold.core.errors import ConfigError
from edgehold.core.privacy import ledger
from edgehold.core.privacy.events import ErrorFeedback, Event, Gaussian, SampledGaussian, Skellam
from edgehold.core.privacy.ledger import Limit


def bill(path: Path, budgets: Mapping[str, Limit], dataset: str | None = None) -> dict[str, Any]:
    """Charges and budgets as JSON; `ConfigError` for a data set that neither has."""
    lines, spent = ledger.read(path, {name: limit.delta for name, limit in budgets.items()})
    known = sorted({*budgets, *(line.dataset for line in lines)})
    if dataset is not None and dataset not in known:
        raise ConfigError(f"no data set {dataset!r} here; known: {', '.join(known) or 'none'}", field="dataset")
    return {
        "datasets": [_left(name, spent, budgets.get(name)) for name in known if dataset in (None, name)],
        "charges": [
            {
                "line": line.number, "dataset": line.dataset, "run": line.run, "round": line.round, "method": line.method,
                "mechanisms": [mechanism(event) for event in line.events], "epsilon": _number(line.epsilon),
                "delta": line.limit.delta, "time_unix_s": line.time_unix_s,
            }
            for line in lines
            if dataset in (None, line.dataset)
        ],
    }  # fmt: skip


def _left(name: str, spent: Mapping[str, float], budget: Limit | None) -> dict[str, Any]:
    used = spent.get(name, 0.0)
    if budget is None:
        # Charged once, no longer in the policy: nothing more can be spent.
        return {"dataset": name, "epsilon": _number(used), "max_epsilon": None, "delta": None, "left": None}
    left = max(0.0, budget.epsilon - used)
    return {
        "dataset": name, "epsilon": _number(used), "max_epsilon": budget.epsilon, "delta": budget.delta,
        "left": _number(left),
    }  # fmt: skip


def mechanism(event: Event) -> str:
    """An event in a few words."""
    match event:
        case Gaussian():
            return f"gaussian x {event.releases}, noise {event.sigma / event.sensitivity:.4g} x sensitivity"
        case SampledGaussian():
            noise = event.sigma / event.sensitivity
            return f"sampled gaussian x {event.steps}, rate {event.rate:g}, noise {noise:.4g} x sensitivity"
        case Skellam():
            return f"skellam x {event.releases}, noise {event.variance**0.5 / event.sensitivity:.4g} x sensitivity"
        case ErrorFeedback():
            bounds = f"clip {event.clip:.4g}, error clip {event.error_clip:.4g}, ceiling {event.ceiling:.4g}"
            return f"error feedback x {event.steps} ({event.sampling}), {bounds}, noise {event.sigma:.4g}"


def told(found: Mapping[str, Any]) -> str:
    """The bill for people."""
    if not found["datasets"]:
        return "no privacy budget in the policy and nothing charged yet"
    rows = [("line", "when (UTC)", "data set", "run", "round", "epsilon", "mechanism")]
    for one in found["charges"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one["time_unix_s"]))
        spent = "inf" if one["epsilon"] is None else f"{one['epsilon']:.4f}"
        rows.append(
            (str(one["line"]), when, one["dataset"], one["run"], str(one["round"]), spent, "; ".join(one["mechanisms"]))
        )  # fmt: skip
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    parts = ["\n".join(lines)] if found["charges"] else []
    for one in found["datasets"]:
        spent = "inf" if one["epsilon"] is None else f"{one['epsilon']:.4f}"
        if one["max_epsilon"] is None:
            parts.append(f"{one['dataset']}: epsilon {spent} spent; no budget in the policy, so nothing more is")
        else:
            parts.append(
                f"{one['dataset']}: epsilon {spent} of {one['max_epsilon']:g} spent at delta {one['delta']:g}; "
                f"{one['left']:.4f} left"
            )
    return "\n\n".join(parts)


def _number(value: float) -> float | None:
    """JSON has no infinity."""
    return None if math.isinf(value) else round(value, 6)
