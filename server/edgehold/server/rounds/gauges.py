"""What stands open right now, read off for a scrape: nothing here is kept up to date between two of them."""

import asyncio
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable
from typing import get_args

from edgehold.core.errors import FlError
from edgehold.server.identity.roster import Member, MemberState
from edgehold.server.rounds.board import OpenRound
from edgehold.server.rounds.floor import Floor
from edgehold.server.rounds.runs import Runs
from edgehold.server.store.records import RUN_STATES

log = logging.getLogger("edgehold.server.rounds.gauges")


class Gauges:
    """life_s: of client certificates; now: seconds since 1970."""

    def __init__(self, floor: Floor, runs: Runs, life_s: float, now: Callable[[], float] = time.time) -> None:
        self._floor, self._runs, self._life_s, self._now = floor, runs, life_s, now

    async def measure(self) -> None:
        """Set every gauge. On the event loop: whoever asks in a thread of its own waits for this."""
        self._clients()
        self._rounds()
        floor, metrics = self._floor, self._floor.metrics
        metrics.open_uploads.set(floor.admission.under_way)
        metrics.disk_free.set(free_share(floor))
        for task, spent in (await self.spent()).items():
            metrics.ledger_spent.labels(task).set(spent / floor.accounts.budgets[task].epsilon)

    async def spent(self) -> dict[str, float]:
        """Epsilon spent of the server's own budgets, by task; empty, and a line in the log, where the ledger cannot be read."""
        try:
            return dict(await asyncio.to_thread(self._floor.accounts.spent))
        except FlError as error:
            log.error("the server's privacy ledger cannot be read: %s", error.message)
            return {}

    def life_left(self, member: Member) -> float | None:
        """Share of its certificate's life that a client has left, 0 to 1; None for one that has none yet."""
        if not member.expires:
            return None
        return min(1.0, max(0.0, (member.expires - self._now()) / self._life_s))

    def missing(self, opened: OpenRound) -> frozenset[str]:
        """Clients that a round asked, that have sent it no update, and are not connected; none once it takes no more."""
        floor = self._floor
        if not floor.board.collects(opened):
            return frozenset()
        return opened.tally.selected - opened.tally.admitted - floor.sessions.connected

    def _clients(self) -> None:
        metrics, members = self._floor.metrics, list(self._floor.roster)
        states = Counter(member.state for member in members)
        for state in get_args(MemberState):
            metrics.clients.labels(state).set(states[state])
        active = [member for member in members if member.state == "active"]
        metrics.clients_enrolled.set(sum(bool(member.signing_key) for member in active))
        left = [share for member in active if (share := self.life_left(member)) is not None]
        metrics.certificate_life_left.set(min(left, default=1.0))
        metrics.certificates_expired.set(left.count(0.0))
        opened = self._floor.board.under_way
        metrics.clients_missing.set(len(frozenset[str]().union(*map(self.missing, opened))))

    def _rounds(self) -> None:
        metrics, opened = self._floor.metrics, self._floor.board.under_way
        states = self._runs.states()
        for state in RUN_STATES:
            metrics.runs.labels(state).set(states[state])
        current, planned = self._runs.progress()
        metrics.current_round.set(current)
        metrics.planned_rounds.set(planned)
        metrics.open_rounds.set(len(opened))
        # The worst of several, so that one comparison of two numbers finds any round that is stuck.
        worst = min(opened, key=lambda one: one.since_s + one.deadline_s, default=None)
        metrics.open_round_age.set(time.monotonic() - worst.since_s if worst else 0.0)
        metrics.open_round_deadline.set(worst.deadline_s if worst else 0.0)


def free_share(floor: Floor) -> float:
    """Free share of the file system that uploads are spooled to."""
    usage = shutil.disk_usage(floor.spool)
    return usage.free / usage.total
