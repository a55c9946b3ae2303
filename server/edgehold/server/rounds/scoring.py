"""Scores of committed models, made beside the next round and at most one round behind."""

import asyncio
import logging
from collections.abc import Callable

from edgehold.core.errors import FlError
from edgehold.core.plan import Plan
from edgehold.server.rounds.floor import Floor
from edgehold.server.store import records
from edgehold.server.store.blobs import FileBlob
from edgehold.server.store.records import RoundRow

log = logging.getLogger("edgehold.server.rounds.runs")


class Scoring:
    """Scores the rounds of one run. tell: called with every round that has its score."""

    def __init__(self, floor: Floor, plan: Plan, tell: Callable[[RoundRow], None]) -> None:
        self._floor = floor
        self._plan = plan
        self._tell = tell
        self._running: asyncio.Task[None] | None = None

    async def begin(self, row: RoundRow, weights: Callable[[], FileBlob]) -> None:
        """Score a round when the plan asks for it. weights: makes the dense weights, in a thread."""
        every, task = self._plan.evaluation.every, self._plan.run.task
        last = row.round == self._plan.run.rounds
        if not every or not self._floor.evaluation.knows(task) or (row.round % every and not last):
            return
        await self.finish()
        self._running = asyncio.create_task(self._score(row, weights))

    async def _score(self, row: RoundRow, weights: Callable[[], FileBlob]) -> None:
        try:
            dense = await asyncio.to_thread(weights)
            facts = await self._floor.evaluation.score(self._plan.run.task, dense)
        except FlError as error:
            log.warning("run %s round %d could not be scored: %s", row.run, row.round, error.message)
            return
        if dense.digest not in records.blob_digests(row.packed or ""):
            self._floor.store.drop([dense.digest])
        await self._floor.journal.write(lambda db: records.add_facts(db, row.key, facts))
        row.facts.update(facts)
        self._tell(row)

    async def finish(self) -> None:
        """Wait for the score under way."""
        if self._running:
            await self._running
