"""Who can take part in a run: who may, who is here, who has been gone for too long."""

import asyncio
import contextlib
import time
from collections.abc import Collection

from edgehold.core.plan import Plan
from edgehold.server.rounds.floor import Floor
from edgehold.server.rounds.tally import Tally, wanted

SETTLE_S = 0.5
"""With enough clients for the cohort at hand, wait this long for the rest before drawing."""


class Gathering:
    """The clients of one run. Told of every arrival and departure."""

    def __init__(self, floor: Floor, plan: Plan) -> None:
        self._floor = floor
        self._plan = plan
        self._gone: dict[str, float] = {}
        self._arrivals = asyncio.Event()

    def client_moved(self, client: str, connected: bool) -> None:
        """A client came or went."""
        if connected:
            self._gone.pop(client, None)
            self._arrivals.set()
        else:
            self._gone[client] = time.monotonic()

    def eligible(self) -> list[str]:
        """Clients that may run the plan's task, connected or not."""
        return [one.id for one in self._floor.roster if one.may_take_part(self._plan.run.task)]

    def available(self, without: Collection[str]) -> list[str]:
        """Clients that could be asked now: connected, and owing nothing to another round."""
        connected, owing = self._floor.sessions.connected, self._floor.board.owing
        return [c for c in self.eligible() if c in connected and c not in without and c not in owing]

    async def wait(self, without: Collection[str]) -> list[str]:
        """Clients to draw from: enough for the over-selected cohort, or everybody there is, or who came in time."""
        loop, cohort = asyncio.get_running_loop(), self._plan.cohort
        many = wanted(cohort.size, cohort.over_select)
        deadline = loop.time() + cohort.join_deadline_s
        settled: float | None = None
        while True:
            available, now = self.available(without), loop.time()
            everybody = len(available) >= len([c for c in self.eligible() if c not in without])
            if len(available) >= many or (everybody and len(available) >= self._plan.quorum) or now >= deadline:
                return available
            if len(available) >= cohort.size:
                settled = settled or now + SETTLE_S
                if now >= settled:
                    return available
            self._arrivals.clear()
            until = min(deadline, settled or deadline)
            with contextlib.suppress(TimeoutError):
                # Not wait_for: that loses a cancellation which arrives together with the event (until Python 3.12).
                async with asyncio.timeout(min(until - now, 1.0)):
                    await self._arrivals.wait()

    def settle(self, tally: Tally) -> None:
        """Count out who was shut out, and who has been gone for longer than the join deadline.

        Called at every answer, so that it looks at the asked alone, however many belong to the federation.
        """
        now, sessions, roster = time.monotonic(), self._floor.sessions, self._floor.roster
        for client in tally.pending:
            if not sessions.has(client):
                # Asked before a restart and not seen since: absent from now on.
                self._gone.setdefault(client, now)
            since = self._gone.get(client)
            if since is not None and now - since >= self._plan.cohort.join_deadline_s:
                tally.lose(client)
        for client in tally.selected:
            if not roster.may_run(client, self._plan.run.task):
                tally.drop(client)
