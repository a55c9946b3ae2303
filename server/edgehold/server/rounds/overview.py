"""The fleet at a glance, as plain data: what the status page shows, and what `/status.json` says. Numbers are finite or None;
text is as it came, so that whoever shows it escapes it.
"""

import json
import math
import time
from collections.abc import Mapping
from typing import Any, TypeAlias

from edgehold.core.about import VERSION
from edgehold.core.contract import Facts
from edgehold.proto.v1.admin_pb2 import RunInfo
from edgehold.server.identity.roster import Member
from edgehold.server.metrics import by_label
from edgehold.server.rounds.board import OpenRound
from edgehold.server.rounds.floor import Floor
from edgehold.server.rounds.gauges import Gauges, free_share
from edgehold.server.rounds.runs import Runs
from edgehold.server.store import records

Data: TypeAlias = dict[str, Any]

RUNS, ROUNDS, CLIENTS, REFUSALS, POINTS = 12, 12, 200, 12, 400
"""How many of each are told at most; of clients, those first that want looking at."""
AUDIT_DEPTH = 4000
"""Lines of the audit log that are looked through for the newest refusals."""
SCORES = ("accuracy", "f1", "auc")
"""Facts that are drawn as a curve; the first that a run has."""


class Overview:
    """started_s: when the server started, seconds since 1970."""

    def __init__(self, floor: Floor, runs: Runs, gauges: Gauges, started_s: float) -> None:
        self._floor, self._runs, self._gauges, self._started_s = floor, runs, gauges, started_s

    async def now(self) -> Data:
        """Everything, on the event loop."""
        await self._gauges.measure()
        infos = self._runs.newest(RUNS)
        shown = next((info for info in infos if info.state == "running"), infos[0] if infos else None)
        spent = await self._gauges.spent()
        return {
            "server": self._server(),
            "runs": [_run(info) for info in infos],
            "shown": self._shown(shown) if shown else None,
            "open_rounds": [self._open(opened) for opened in self._floor.board.under_way],
            "clients": self._clients(),
            "counts": self._counts(),
            "refused": self._refused(),
            "budgets": [self._budget(task, spent.get(task)) for task in self._floor.accounts.budgets],
        }

    def _server(self) -> Data:
        floor, now = self._floor, time.time()
        # In one reading: the journal's thread counts on meanwhile.
        (journal,) = floor.metrics.journal_sync.collect()
        syncs = {(one.name.removeprefix(f"{journal.name}_"), one.labels.get("le")): one.value for one in journal.samples}
        commits, seconds, within = syncs["count", None], syncs["sum", None], syncs["bucket", "1.0"]
        return {
            "federation": floor.federation, "software": VERSION, "boot": floor.journal.epoch, "time_unix_s": now,
            "uptime_s": now - self._started_s, "disk_free_ratio": free_share(floor),
            "open_uploads": floor.admission.under_way,
            "journal_commits": int(commits), "journal_commits_over_1s": int(commits - within),
            "journal_sync_mean_s": seconds / commits if commits else None,
        }  # fmt: skip

    def _sample(self, name: str, **labels: str) -> float:
        return self._floor.metrics.registry.get_sample_value(f"edgehold_{name}", labels) or 0.0

    def _shown(self, info: RunInfo) -> Data:
        """The run that is looked at: its newest rounds, newest first, and its curve."""
        rows = records.committed(self._floor.journal, info.run, max(0, info.rounds_done - POINTS + 1))
        score = next((name for name in SCORES if any(name in row.facts for row in rows)), None)
        points = [(row.round, finite(row.facts[score])) for row in rows if score in row.facts] if score else []
        return {
            "run": info.run,
            "rounds_planned": info.rounds_planned,
            "score": score,
            "curve": [(number, value) for number, value in points if value is not None],
            "rounds": [
                {"round": row.round, "attempt": row.attempt, "facts": facts(row.facts)} for row in rows[: -ROUNDS - 1 : -1]
            ],
        }

    def _open(self, opened: OpenRound) -> Data:
        tally = opened.tally
        return {
            "run": opened.run, "round": opened.round, "attempt": opened.attempt,
            "state": "open" if self._floor.board.collects(opened) else "closing",
            "age_s": time.monotonic() - opened.since_s, "deadline_s": opened.deadline_s,
            "selected": len(tally.selected), "admitted": len(tally.admitted), "rejected": len(opened.rejected),
            "lost": len(tally.lost), "missing": sorted(self._gauges.missing(opened))[:CLIENTS],
            "bytes_up": opened.bytes_up, "bytes_down": opened.bytes_down, "masked": opened.masks is not None,
            "reasons": {client: reason for client, reason in sorted(tally.reasons.items())[:CLIENTS]},
        }  # fmt: skip

    def _clients(self) -> Data:
        floor = self._floor
        members, connected = list(floor.roster), floor.sessions.connected
        counts = {row[0]: row[1:] for row in floor.journal.read("SELECT id, admitted, rejected FROM clients")}
        missing = frozenset[str]().union(*map(self._gauges.missing, floor.board.under_way))

        def told(member: Member) -> Data:
            admitted, rejected = counts[member.id]
            return {
                "client": member.id, "state": member.state, "enrolled": bool(member.signing_key),
                "connected": member.id in connected, "missing": member.id in missing, "admitted": admitted,
                "rejected": rejected, "certificate_life_left": self._gauges.life_left(member),
                "tasks": list(member.allowed_tasks),
            }  # fmt: skip

        def calm(one: Data) -> tuple[bool, bool, bool, str]:
            return not one["missing"], not one["rejected"], one["connected"] or one["state"] != "active", one["client"]

        everybody = sorted(map(told, members), key=calm)
        return {
            "roster": len(members),
            "active": sum(member.state == "active" for member in members),
            "enrolled": sum(one["enrolled"] and one["state"] == "active" for one in everybody),
            "connected": len(connected),
            "missing": len(missing),
            "least_life_left": min((one["certificate_life_left"] for one in everybody
                                    if one["state"] == "active" and one["certificate_life_left"] is not None), default=None),
            "listed": everybody[:CLIENTS],
        }  # fmt: skip

    def _counts(self) -> Data:
        """Since the server started."""
        metrics = self._floor.metrics
        return {
            "refusals": by_label(metrics.refusals), "rejections": by_label(metrics.rejections),
            "declines": by_label(metrics.declines), "mask_groups": by_label(metrics.totals["mask_groups"]),
            "mask_dropouts": by_label(metrics.totals["mask_dropouts"]),
            **{name: int(self._sample(f"{name}_total"))
               for name in ("rounds_committed", "rounds_abandoned", "payload_received_bytes", "payload_sent_bytes")},
        }  # fmt: skip

    def _refused(self) -> list[Data]:
        """The newest refusals in the audit log."""
        rows = self._floor.journal.read(
            "SELECT time, subject, detail FROM audit WHERE event='refused' AND seq > (SELECT MAX(seq) FROM audit) - ?"
            " ORDER BY seq DESC LIMIT ?",
            AUDIT_DEPTH, REFUSALS,
        )  # fmt: skip
        found = []
        for moment, subject, text in rows:
            detail = json.loads(text)
            said = {name: str(detail.get(name, "")) for name in ("code", "method", "message")}
            found.append({"time_unix_s": moment, "caller": subject, **said})
        return found

    def _budget(self, task: str, spent: float | None) -> Data:
        limit = self._floor.accounts.budgets[task]
        share = None if spent is None else finite(spent / limit.epsilon)
        return {"task": task, "epsilon": None if spent is None else finite(spent), "max_epsilon": limit.epsilon,
                "delta": limit.delta, "spent_ratio": share}  # fmt: skip


def _run(info: RunInfo) -> Data:
    return {
        "run": info.run, "state": info.state, "error": info.error, "task": info.task, "method": info.method,
        "rule": info.rule, "rounds_done": info.rounds_done, "rounds_planned": info.rounds_planned,
        "seconds": info.seconds, "created_unix_s": info.created_unix_s, "model": info.model_digest.hex(),
        "facts": facts(info.latest.facts),
    }  # fmt: skip


def facts(found: Facts | Mapping[str, float]) -> Data:
    """Facts that are numbers JSON can say."""
    return {name: finite(value) for name, value in sorted(found.items())}


def finite(value: float) -> float | None:
    """The value, or None for one that is no number."""
    return value if math.isfinite(value) else None
