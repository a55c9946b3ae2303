"""`fl-eval invert`: from a transcript to pictures and a result in JSON. The truth comes in for scoring alone."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.attacks.eval.pictures import grid
from edgehold.attacks.eval.screen import Tell, progress
from edgehold.attacks.inversion.catalogue import Attack, find
from edgehold.attacks.inversion.metrics import Score, score
from edgehold.attacks.inversion.observed import Aim, Observed, observe
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array
from edgehold.server.rounds.evaluator import load_task
from edgehold.server.store.transcript import Entry, Recorded

PUBLIC = 1000
"""Test records of the server's own that attacks may use."""
SHARES = (20.0, 30.0, 60.0)


@dataclass(frozen=True)
class Wish:
    """What was asked for; see the command's help."""

    transcript: Path
    task: str
    options: Mapping[str, Any]
    truth: Mapping[str, Any]
    attack: str
    clients: tuple[str, ...]
    rounds: tuple[int, ...]
    records: int | None
    restarts: int
    iterations: int
    total_variation: float | None
    seed: int
    out: Path


def run(wish: Wish) -> dict[str, Any]:
    """Invert every wanted update; the answer as JSON. After Ctrl-C: what was done until then, `interrupted` true."""
    attack, recorded = find(wish.attack), Recorded.open(wish.transcript)
    try:
        own = load_task(wish.task, {**wish.options, "device_index": -1})
        if own.schema.digest != recorded.schema.digest:
            raise ConfigError(
                "the task's model is not that of the run: their tensors differ; give the run's own options", field="task"
            )
        if getattr(own, "test_data", None) is None:
            raise ConfigError("the server's own copy of the task has no test records; attacks need a few", field="task")
        device = load_task(wish.task, {**wish.options, **wish.truth}) if wish.truth else None
        wanted = _wanted(wish, recorded)
        wish.out.mkdir(parents=True, exist_ok=True)
        found: dict[str, Any] = {
            "run": recorded.plan.run.name, "method": recorded.method, "attack": attack.name,
            "plan_digest": recorded.plan.digest.hex(), "interrupted": False, "results": [],
        }  # fmt: skip
        try:
            with progress(f"invert {attack.name}", 100 * len(wanted), "%") as tell:
                for at, (number, client) in enumerate(wanted):
                    (entry,) = recorded.entries((number,), (client,))
                    found["results"].append(_one(wish, attack, recorded, entry, own, device, _part(tell, at)))
                    tell(100 * (at + 1), told(found["results"][-1]))
        except KeyboardInterrupt:
            found["interrupted"] = True
        (wish.out / "result.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return found
    finally:
        recorded.close()


def told(result: Mapping[str, Any]) -> str:
    """How near it came, in words."""
    if "psnr" not in result:
        return "not scored"
    return f"median {np.median(result['psnr']):.1f} dB"


def _wanted(wish: Wish, recorded: Recorded) -> list[tuple[int, str]]:
    rounds = wish.rounds or tuple(number for number, _ in recorded.index[:1])
    wanted = [(n, c) for n, c in recorded.index if n in rounds and (not wish.clients or c in wish.clients)]
    if not wanted:
        held = sorted({number for number, _ in recorded.index}), sorted({client for _, client in recorded.index})
        raise ConfigError(f"nothing recorded of rounds {list(rounds)} and clients {list(wish.clients)}; it holds {held}")
    if wish.truth and len({client for _, client in wanted}) > 1:
        raise ConfigError("--truth is one device's: name that --client too", field="truth")
    return wanted


def _part(tell: Tell, at: int) -> Any:
    return lambda share, said: tell(100 * at + int(100 * share), said)


def _one(wish: Wish, attack: Attack, recorded: Recorded, entry: Entry, own: Any, device: Any, tell: Any) -> dict[str, Any]:
    observed = observe(recorded.method, entry.order, entry.update, recorded.schema)
    aim = _aim(wish, observed, own, tell)
    began = time.monotonic()
    got = attack.invert(observed, aim)
    result: dict[str, Any] = {
        "round": entry.round, "client": entry.client, "records": aim.records, "found": len(got.images),
        "guard": observed.guard, "objectives": list(got.objectives),
        "labels": None if got.labels is None else got.labels.tolist(),
        "seconds": round(got.seconds, 3), "wall_seconds": round(time.monotonic() - began, 3), "note": got.note,
    }  # fmt: skip
    truth, judged = None, None
    if device is not None and device.train_data is not None:
        truth = np.asarray(device.train_data[0])
        judged = score(got.images, truth, aim.box[1] - aim.box[0], got.labels, np.asarray(device.train_data[1]))
        result |= _scored(judged)
    name = f"round-{entry.round}-{entry.client}-{attack.name}.png"
    if _drawn(wish.out / name, got.images, truth, judged, aim):
        result["picture"] = name
    return result


def _aim(wish: Wish, observed: Observed, own: Any, tell: Any) -> Aim:
    public = np.asarray(own.test_data[0][:PUBLIC])
    records = wish.records or observed.records
    if not records:
        raise ConfigError("the update does not say how many records it comes from; give --records", field="records")
    classes = int(np.asarray(own.test_data[1]).max()) + 1
    return Aim(
        public.shape[1:], records, classes, (float(public.min()), float(public.max())), public, None, own, wish.restarts,
        wish.iterations, wish.total_variation, wish.seed, tell,
    )  # fmt: skip


def _scored(judged: Score) -> dict[str, Any]:
    alike = [one for one in judged.ssim if one == one]
    return {
        "psnr": [round(one, 2) for one in judged.psnr],
        "ssim": [round(one, 4) if one == one else None for one in judged.ssim],
        "median_psnr": round(judged.median, 2),
        "median_ssim": round(float(np.median(alike)), 4) if alike else None,
        "shares_above_db": {f"{level:g}": judged.above(level) for level in SHARES},
        "label_accuracy": judged.label_accuracy,
    }


def _drawn(path: Path, images: Array, truth: Array | None, judged: Score | None, aim: Aim) -> bool:
    """Whether records are images, and there were any to draw."""
    if len(aim.shape) != 3 or not len(images):
        return False
    if truth is None or judged is None:
        grid(path, None, list(images), None, aim.box)
    else:
        pairs = [images[at] if at >= 0 else None for at in judged.match]
        grid(path, list(truth), pairs, list(judged.psnr), aim.box)
    return True
