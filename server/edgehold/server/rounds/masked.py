"""One masked round on the server: devices' messages in, journaled before they count; groups; sums out.

The machines are pure (`edgehold.core.masks`); here they meet the journal, the clock and those who wait. After a restart
everything is made again from the journal, but reveals, which devices give again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cryptography import x509

from edgehold.core import crashpoints
from edgehold.core.contract import Facts, MaskedForm
from edgehold.core.errors import FlError, GroupLost, Interrupted, OutsideLaw, Stale
from edgehold.core.masks import draw
from edgehold.core.masks.combine import ENOUGH, liars_withstood
from edgehold.core.masks.draw import Entrant
from edgehold.core.masks.gathering import Gathering, draw_value
from edgehold.core.masks.group import MaskGroup
from edgehold.core.masks.members import Sign
from edgehold.core.masks.messages import Advert, Box, Reveal, Roster, Survivors
from edgehold.core.masks.sizing import Sizes
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.suspicion import companies, judged
from edgehold.core.masks.terms import Terms
from edgehold.core.vectors import Blob
from edgehold.proto.masks import advert_from, advert_to, boxes_from, boxes_to
from edgehold.proto.v1.masks_pb2 import MaskAdvert, MaskBoxes
from edgehold.server.rounds.meter import Meter
from edgehold.server.store import masks
from edgehold.server.store.journal import Journal
from edgehold.server.store.masks import MasksRow, Step, Suspicion
from edgehold.server.store.records import Key
from edgehold.server.threads import to_its_end

log = logging.getLogger("edgehold.server.rounds.masked")

Roots: TypeAlias = Callable[[], Sequence[x509.Certificate]]

_LATE = "this step of the round's masked sum is over; this device takes part in the next round"


@dataclass(slots=True)
class Outcome:
    """What became of the groups. sums: of the good ones, in the order they were drawn; void: survivors of those whose sum broke
    the law; lost: members of those whose sum stays masked; suspects: whose shares were not what they had advertised.
    """

    sums: list[GroupSum] = field(default_factory=list)
    void: list[tuple[str, ...]] = field(default_factory=list)
    lost: list[tuple[str, ...]] = field(default_factory=list)
    suspects: tuple[str, ...] = ()

    @property
    def survivors(self) -> tuple[str, ...]:
        """Whose updates are in the sums, in node order."""
        return tuple(sorted(who for one in self.sums for who in one.survivors))

    def learned(self, before: Suspicion) -> Suspicion:
        """Suspicion after the round."""
        good = [one.survivors for one in self.sums]
        cleared = {who for group in good for who in group}
        former = {who: number for who, number in before.company.items() if who not in cleared}
        return Suspicion(judged(before.chances, self.void, good), companies(self.void, former))


def entrants(company: Mapping[str, int]) -> tuple[Entrant, ...]:
    """Those who are asked, before any keys are here."""
    return tuple(Entrant(client, number) for client, number in sorted(company.items()))


def terms_of(sizes: Sizes, federation: str, plan_digest: bytes, key: Key, nonce: bytes, base: bytes, row: MasksRow) -> Terms:
    """The terms of one attempt."""
    run, number, attempt = key
    return Terms(
        federation, plan_digest, run, number, attempt, nonce, base,
        draw_commitment=draw.commitment(row.value, entrants(row.company)),
        entries=sizes.entries, largest=sizes.largest, bits=sizes.bits, margin=sizes.margin, cipher=sizes.cipher,
        least=sizes.least, most=sizes.most, clip=sizes.clip, norm=sizes.norm, variance=sizes.variance, helpers=sizes.helpers,
    )  # fmt: skip


def drawn(selection: Sequence[str], suspects: Suspicion) -> tuple[bytes, dict[str, int]]:
    """What is fixed with the plan of a round: the draw's value, and the company of each who is asked."""
    return draw_value(), {client: suspects.company.get(client, 0) for client in selection}


class MaskedRound:
    """One attempt. The run's driver calls `draw`, `close_shares`, `freeze`, `settle` in this order; devices' messages arrive
    through `advert`, `shares`, `reveal`, and what they wait for is `roster_of`, `boxes_of`, `survivors_of`: None for not yet.

    moved: set whenever there is something new to decide.
    """

    def __init__(self, journal: Journal, key: Key, terms: Terms, row: MasksRow, roots: Roots, moved: asyncio.Event) -> None:
        self.terms, self.meter = terms, Meter()
        self._journal, self._key, self._roots, self._moved = journal, key, roots, moved
        self._gathering = Gathering(terms, row.value, entrants(row.company))
        self._groups: dict[str, MaskGroup] = {}
        self._sets: dict[str, Survivors] = {}
        self._step: Step = row.step
        self._closing, self._flying, self._landed = False, 0, asyncio.Event()
        self._over: FlError | None = None
        self._committed = self._frozen = False
        self._stepped = asyncio.Event()
        self._replay()

    def _replay(self) -> None:
        """Take up what the journal has."""
        for body in masks.messages(self._journal, self._key, "advertise").values():
            self._gathering.readmit(advert_from(MaskAdvert.FromString(body)))
        if self._step == "advertise":
            return
        self._form()
        for client, body in masks.messages(self._journal, self._key, "share").items():
            self._groups[client].share(client, boxes_from(MaskBoxes.FromString(body).boxes))
        if self._step == "collect":
            self._close_shares()

    @property
    def step(self) -> Step:
        """What is waited for."""
        return self._step

    @property
    def groups(self) -> list[MaskGroup]:
        """In the order they were drawn."""
        return list(dict.fromkeys(self._groups.values()))

    # ---- what devices send

    async def advert(self, advert: Advert) -> None:
        """Step 1: a device's keys; durable when this returns. The caller has matched `advert.client` with who calls."""
        self._alive()
        if self._step == "advertise" and self._closing and advert.client not in self.advertised:
            raise Stale(_LATE)
        with self.meter.working("keys"):
            self._gathering.add(advert, self._roots(), time.time())
        await self._store("advertise", advert.client, advert_to(advert).SerializeToString(deterministic=True))
        crashpoints.reach("advert_journaled")

    async def shares(self, client: str, boxes: Sequence[Box]) -> None:
        """Step 2: a device's boxes; durable when this returns."""
        self._alive()
        group = self._group(client)
        if self._step == "share" and self._closing and client not in group.sharers:
            raise Stale(_LATE)
        with self.meter.working("shares"):
            group.share(client, boxes)
        body = MaskBoxes(boxes=boxes_to(boxes)).SerializeToString(deterministic=True)
        await self._store("share", client, body)
        crashpoints.reach("shares_journaled")

    def reveal(self, answer: Reveal) -> None:
        """Step 5: a survivor's shares, in memory alone. Of no use, and taken all the same, once the round is committed."""
        if self._committed:
            return
        self._alive()
        with self.meter.working("reveals"):
            self._group(answer.client).reveal(answer)
        self._moved.set()
        crashpoints.reach("revealed_in_memory")

    # ---- what devices wait for

    def roster_of(self, client: str) -> Roster | None:
        """The device's group, once the draw is durable: after a restart there must be no other one."""
        self._alive()
        return None if self._step == "advertise" else self._group(client).roster

    def boxes_of(self, client: str) -> tuple[Box, ...] | None:
        """What the others sealed for it, once all have had their time; `Stale` when its group is lost."""
        self._alive()
        if self._step != "collect":
            return None
        return self._living(client).boxes_for(client)

    def survivors_of(self, client: str) -> Survivors | None:
        """Of its group, once they are fixed; `Stale` when its group is lost."""
        self._alive()
        if not self._frozen:
            return None
        self._living(client)
        return self._sets[client]

    def is_committed(self) -> bool | None:
        """True once the round is committed, None before; raises when the attempt ends in another way."""
        if self._committed:
            return True
        self._alive()
        return None

    @property
    def stepped(self) -> asyncio.Event:
        """Set when the round moves on. To be taken before looking for what is waited for: the next step sets another one."""
        return self._stepped

    def end(self, why: str) -> None:
        """The attempt is over: whoever still waits hears so. Nothing is changed by a second end."""
        self._end(Stale(f"run {self._key[0]!r} round {self._key[1]}: {why}; drop this task"))

    def leave(self) -> None:
        """Nobody drives the attempt any more: whoever still waits is to ask again, and then hears how matters stand."""
        self._end(Interrupted(f"run {self._key[0]!r} is not driven any more; ask again", retry_after_s=0.0))

    def commit(self) -> None:
        """The round is committed: devices may forget it."""
        self._committed = True
        self.end("it is committed")

    def _end(self, error: FlError) -> None:
        if self._over is None:
            self._over = error
        self._tell()

    def _alive(self) -> None:
        if self._over is not None:
            raise self._over

    def _group(self, client: str) -> MaskGroup:
        if client not in self._groups:
            raise Stale(_LATE)
        return self._groups[client]

    def _living(self, client: str) -> MaskGroup:
        group = self._group(client)
        if group in self._lost():
            raise Stale("too few of this device's group are left to sum them; it takes part in the next round")
        return group

    def expects(self, client: str) -> None:
        """Return if the device's masked vector can count now, else raise `Stale`: masks of one that sent no shares, or before
        it is clear who did, could not be taken off, and it would stand in the tally for a device that can be summed.
        """
        if self._step != "collect" or client not in self.masking:
            raise Stale(f"client {client!r} is at another step of the masked sum: no masked vector of it can be summed now")

    def _lost(self) -> list[MaskGroup]:
        if self._frozen:
            return [group for group in self.groups if group.phase != "reveal"]
        return [group for group in self.groups if group.phase == "share"] if self._step == "collect" else []

    # ---- what the run's driver asks

    @property
    def advertised(self) -> frozenset[str]:
        """Devices whose keys are here."""
        return frozenset(self._gathering.adverts)

    @property
    def sharers(self) -> frozenset[str]:
        """Devices whose sealed shares are here."""
        return frozenset(who for group in self.groups for who in group.sharers)

    @property
    def masking(self) -> frozenset[str]:
        """Devices whose masked vectors are wanted: sharers of groups that are not lost."""
        lost = self._lost()
        return frozenset(who for group in self.groups if group not in lost for who in group.sharers)

    @property
    def enough(self) -> bool:
        """Whether every group that is not lost can be unmasked."""
        lost = self._lost()
        return all(group.enough for group in self.groups if group not in lost)

    @property
    def silent(self) -> frozenset[str]:
        """Survivors of groups that are not lost who have not revealed."""
        asked = frozenset(who for one in set(self._sets.values()) for who in one.clients)
        return asked.difference(*(group.answered for group in self.groups))

    async def draw(self) -> None:
        """End step 1: groups are drawn. `GroupLost` where fewer came than a group needs."""
        await self._quiet()
        with self.meter.working("keys"):
            self._form()
        await self._move("share")

    async def close_shares(self) -> None:
        """End step 2: groups with too few sharers are lost."""
        await self._quiet()
        self._close_shares()
        await self._move("collect")

    def freeze(self, uploads: Mapping[str, tuple[bytes, int]], sign: Sign) -> None:
        """Step 4, once the round's survivors are journaled: the sets, the same for the same uploads. Groups with too few are
        lost.

        uploads: digest and size of the masked vector of each survivor.
        """
        for group in self.groups:
            if group.phase == "share":
                continue
            for who in group.sharers:
                if who in uploads:
                    group.upload(who, *uploads[who])
            try:
                found = group.freeze(sign)
            except GroupLost as error:
                self._warn("lost", error)
                continue
            self._sets |= dict.fromkeys(group.roster.ids, found)
        self._frozen = True
        self._tell()

    def settle(self, uploads: Mapping[str, Blob], form: MaskedForm[Any]) -> Outcome:
        """Step 6: every group unmasked and tested. Takes time: for a thread."""
        outcome = Outcome()
        for group in self.groups:
            try:
                if group.phase != "reveal":
                    raise GroupLost("too few of its members are left")
                with self.meter.working("sums"):
                    outcome.sums.append(group.settle(uploads, form.law))
            except OutsideLaw as error:
                self._warn("void", error)
                outcome.void.append(self._sets[group.roster.ids[0]].clients)
            except GroupLost as error:
                self._warn("lost", error)
                outcome.lost.append(group.roster.ids)
            outcome.suspects += group.suspects
        return outcome

    def facts(self, selected: int, outcome: Outcome) -> Facts:
        """Groups by outcome, and devices that vanished at each step."""
        groups = self.groups
        shared = self.sharers
        uploaded = frozenset(who for group in groups for who in group.uploaded)
        revealed = frozenset(who for group in groups for who in group.answered)
        kept = {who: group for group in groups for who in group.sharers}
        recovered = [one for one in outcome.sums if len(one.survivors) < len(kept[one.survivors[0]].roster.ids)]
        largest = max((len(group.roster.ids) for group in groups), default=1)
        return self.meter.facts() | {
            "mask_liars_withstood": liars_withstood(largest) if len(groups) >= ENOUGH else 0.0,
            "mask_groups_recovered": float(len(recovered)),
            "mask_groups": float(len(outcome.sums)),
            "mask_groups_void": float(len(outcome.void)),
            "mask_groups_lost": float(len(outcome.lost)),
            "mask_survivors": float(len(outcome.survivors)),
            "mask_gone_before_keys": float(selected - len(self.advertised)),
            "mask_gone_before_shares": float(len(self.advertised - shared)),
            "mask_gone_before_upload": float(len(shared - uploaded)),
            "mask_gone_before_reveal": float(len(uploaded - revealed)),
        }

    def _form(self) -> None:
        for roster in self._gathering.close():
            self._groups |= dict.fromkeys(roster.ids, MaskGroup(roster))

    def _close_shares(self) -> None:
        for group in self.groups:
            try:
                group.close_shares()
            except GroupLost as error:
                self._warn("lost", error)

    def _warn(self, what: str, error: FlError) -> None:
        log.warning("run %s round %d: a group is %s: %s", self._key[0], self._key[1], what, error.message)

    # ---- the journal

    async def _store(self, step: Step, client: str, body: bytes) -> None:
        # Counted here, before anybody else runs: the machine has the message already, and no step may end in between.
        self._flying += 1
        await to_its_end(self._land(step, client, body))

    async def _land(self, step: Step, client: str, body: bytes) -> None:
        try:
            await self._journal.write(lambda db: masks.keep(db, self._key, step, client, body))
        finally:
            self._flying -= 1
            self._landed.set()
        self._moved.set()

    async def _quiet(self) -> None:
        """Take nothing more, and wait until what was taken is durable: groups are made of nothing else."""
        self._closing = True
        while self._flying:
            self._landed.clear()
            await self._landed.wait()

    async def _move(self, step: Step) -> None:
        await self._journal.write(lambda db: masks.move(db, self._key, step))
        self._step, self._closing = step, False
        self._tell()

    def _tell(self) -> None:
        self._stepped.set()
        self._stepped = asyncio.Event()
        self._moved.set()
