"""The masked sums of one run: keys, shares, masked vectors and reveals, each waited for as long as the plan says."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, cast

from edgehold.core import crashpoints
from edgehold.core.contract import Facts, MaskedServerSide
from edgehold.core.errors import ConfigError, GroupLost
from edgehold.core.masks.sizing import Sizes, sized
from edgehold.core.plan import Plan
from edgehold.core.vectors import Schema
from edgehold.defenses import registry
from edgehold.server.rounds.board import OpenRound
from edgehold.server.rounds.floor import Floor
from edgehold.server.rounds.gathering import SETTLE_S, Gathering
from edgehold.server.rounds.masked import MaskedRound, Outcome
from edgehold.server.rounds.tally import Tally, Verdict


def sizes_of(plan: Plan, settings: Any, schema: Schema) -> Sizes | None:
    """The numbers of the plan's masked sums, None for a plan without; `ConfigError` for sums that cannot be made."""
    if not plan.privacy.masked:
        return None
    masked = registry.masked(str(plan.method["name"]))
    try:
        return sized(plan.masks, masked.entries(settings, schema), masked.largest(settings, schema))
    except ConfigError as error:
        raise ConfigError(f"plan: {error.message}", field=error.field) from None


@dataclass(frozen=True)
class Summing:
    """Plays the steps that a round without masks does not have."""

    floor: Floor
    plan: Plan
    schema: Schema
    gathering: Gathering

    async def gather(self, opened: OpenRound) -> Verdict:
        """Keys, shares and masked vectors; then the round may close, or cannot reach its quorum."""
        masked = _of(opened)
        if masked.step == "advertise":
            verdict = await self._advertised(opened, masked)
            if verdict is Verdict.ABANDON:
                return verdict
            try:
                await masked.draw()
            except GroupLost:
                return Verdict.ABANDON
            crashpoints.reach("groups_drawn")
        _leave(opened, masked.advertised, "sent no keys in time")
        if masked.step == "share":
            await self._until(
                opened, self.plan.masks.step_deadline_s, lambda: masked.advertised <= masked.sharers | opened.tally.lost
            )
            await masked.close_shares()
        _leave(opened, masked.masking, "sent no shares in time, or too few of its group did")
        tally = opened.tally
        tally.size = max(len(masked.masking), 1)
        if len(masked.masking) < self.plan.quorum:
            return Verdict.ABANDON
        await self._until(opened, self.plan.masks.step_deadline_s, lambda: tally.decide(False) is not Verdict.WAIT)
        return tally.decide(True)

    async def unmask(self, opened: OpenRound, survivors: Sequence[str]) -> Outcome:
        """Reveals, for as long as the plan says, and what they give. survivors: journaled."""
        masked, files = _of(opened), opened.updates
        digests = await asyncio.to_thread(lambda: {who: files[who][0].digest() for who in survivors})
        uploads = {who: (digests[who], files[who][1].size) for who in survivors}
        masked.freeze(uploads, self.floor.signing_key.sign)
        await self._until(opened, self.plan.masks.step_deadline_s, lambda: masked.enough)
        # Answers that are on their way: with more than just enough of them wrong shares are found and done without.
        await self._until(opened, SETTLE_S, lambda: not masked.silent & self.floor.sessions.connected)
        form = registry.masked(str(self.plan.method["name"])).form(self.schema, masked.terms)
        vectors = {who: files[who][1] for who in survivors}
        return await asyncio.to_thread(masked.settle, vectors, form)

    def fold(self, side: Any, state: Any, opened: OpenRound, outcome: Outcome) -> tuple[Any, Facts]:
        """The state after the round: the one before where lawful sums are over fewer devices than the quorum."""
        if len(outcome.survivors) < self.plan.quorum or not outcome.sums:
            return state, {}
        half = cast(MaskedServerSide[Any, Any, Any], side)
        return half.fold(state, outcome.sums, _of(opened).terms, self.plan.masks.blend, self.floor.store)

    async def _advertised(self, opened: OpenRound, masked: MaskedRound) -> Verdict:
        cohort = self.plan.cohort

        def tally() -> Tally:
            lost = set(opened.tally.lost - masked.advertised)
            return Tally(opened.tally.selected, cohort.size, self.plan.quorum, set(masked.advertised), lost)

        await self._until(opened, cohort.round_deadline_s, lambda: tally().decide(False) is not Verdict.WAIT)
        return tally().decide(True)

    async def _until(self, opened: OpenRound, within_s: float, true: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while True:
            opened.changed.clear()
            self.gathering.settle(opened.tally)
            if true() or loop.time() >= deadline:
                return
            with contextlib.suppress(TimeoutError):
                # Not wait_for: that loses a cancellation which arrives together with the event (until Python 3.12).
                async with asyncio.timeout(min(1.0, max(0.0, deadline - loop.time()))):
                    await opened.changed.wait()


def _of(opened: OpenRound) -> MaskedRound:
    if opened.masks is None:
        raise TypeError("a round without masks")
    return opened.masks


def _leave(opened: OpenRound, here: Collection[str], why: str) -> None:
    """Count out who did not keep up."""
    for client in opened.tally.selected.difference(here):
        opened.tally.lose(client, why)
