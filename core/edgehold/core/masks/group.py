"""The collecting side of one group: boxes, masked vectors, the set of survivors, reveals, the sum, its law.

What it learns is a sum over at least t + 1 members. It assumes neither that it is the only one that collects nor that it holds
all groups: whoever has the roster and the messages can play it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np

from edgehold.core.errors import Duplicate, GroupLost, JournalError, OutsideLaw, Stale, WrongShape
from edgehold.core.masks import pads, sealing, shamir
from edgehold.core.masks.members import Sign
from edgehold.core.masks.messages import Box, Reveal, Roster, Survivors, seed_commitment, sharers_digest
from edgehold.core.masks.recovery import recovered
from edgehold.core.masks.sums import GroupSum
from edgehold.core.vectors import Array, Blob

Phase = Literal["share", "collect", "reveal"]
Law = Callable[[Iterator[Array], int], None]
"""Blocks of the sum (int64), number of survivors -> returns, or `OutsideLaw`."""


@dataclass(slots=True)
class _State:
    """boxes: by sender, then receiver. uploads: digests of whole masked vectors, by client."""

    roster: Roster
    phase: Phase = "share"
    boxes: dict[str, dict[str, bytes]] = field(default_factory=dict, repr=False)
    uploads: dict[str, bytes] = field(default_factory=dict)
    survivors: Survivors | None = None


class MaskGroup:
    """One group in one attempt. Every step may be repeated with the same message: the answer is the same.

    `dump` is what must be durable before a receipt or the set of survivors leaves. Reveals are not in it: with them and the
    masked vectors a disk could be read for the sum, and devices give them again.
    """

    def __init__(self, roster: Roster) -> None:
        self._state = _State(roster)
        self._begin()

    def _begin(self) -> None:
        self._places = {who: place for place, who in enumerate(self.roster.ids, 1)}
        self._reveals: dict[str, Reveal] = {}
        self._suspects: set[str] = set()

    @classmethod
    def restore(cls, data: bytes) -> "MaskGroup":
        """Where `dump` left off; reveals are asked for again."""
        found = cls.__new__(cls)
        try:
            found._state = msgspec.msgpack.decode(data, type=_State)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise JournalError(f"the stored group of a masked sum is damaged: {error}") from None
        found._begin()
        return found

    def dump(self) -> bytes:
        """All there is to go on from; no secret is in it."""
        return msgspec.msgpack.encode(self._state)

    @property
    def roster(self) -> Roster:
        """Who the group is."""
        return self._state.roster

    @property
    def phase(self) -> Phase:
        """What is waited for."""
        return self._state.phase

    @property
    def sharers(self) -> tuple[str, ...]:
        """Members that sent boxes."""
        return tuple(who for who in self.roster.ids if who in self._state.boxes)

    @property
    def uploaded(self) -> tuple[str, ...]:
        """Members whose masked vectors are here."""
        return tuple(who for who in self.roster.ids if who in self._state.uploads)

    @property
    def answered(self) -> tuple[str, ...]:
        """Survivors that have revealed."""
        return tuple(who for who in self.roster.ids if who in self._reveals)

    @property
    def suspects(self) -> tuple[str, ...]:
        """Members whose shares were wrong, or whose secrets are not what they advertised."""
        return tuple(who for who in self.roster.ids if who in self._suspects)

    def share(self, sender: str, boxes: Sequence[Box]) -> None:
        """Step 2: a member's boxes, one for each other member."""
        self._member(sender)
        found = {box.receiver: box.sealed for box in boxes}
        wanted = self._places.keys() - {sender}
        if (
            len(found) != len(boxes)
            or found.keys() != wanted
            or any(box.sender != sender or len(box.sealed) != sealing.BOX_BYTES for box in boxes)
        ):
            raise WrongShape(
                f"{len(boxes)} boxes of {sender!r}; one of {sealing.BOX_BYTES} bytes for each of {len(wanted)} others is due"
            )
        known = self._state.boxes.get(sender)
        if known is not None and known != found:
            raise Duplicate(f"{sender!r} sealed other shares before; the first ones stand")
        if known is None:
            self._expect("share", "shares")
            self._state.boxes[sender] = found

    def close_shares(self) -> None:
        """From here on masks are laid between those who shared. `GroupLost` where they are too few."""
        if self.phase == "share":
            self._enough(self.sharers, "sent shares")
            self._state.phase = "collect"

    def boxes_for(self, receiver: str) -> tuple[Box, ...]:
        """What the other sharers sealed for one of them."""
        self._member(receiver)
        if self.phase == "share" or receiver not in self._state.boxes:
            raise Stale(f"no shares for {receiver!r}: it sent none, or others still may")
        return tuple(Box(who, receiver, self._state.boxes[who][receiver]) for who in self.sharers if who != receiver)

    def upload(self, client: str, digest: bytes, size: int) -> None:
        """Step 3: a whole masked vector of `size` bytes is here (its bytes stay with the caller). digest: its SHA-256."""
        self._member(client)
        if client not in self._state.boxes:
            raise Stale(f"{client!r} sent no shares: its masks could not be taken off")
        if size != self.roster.terms.payload_bytes:
            raise WrongShape(f"a masked vector of {size} bytes; {self.roster.terms.payload_bytes} are expected")
        known = self._state.uploads.get(client)
        if known is not None and known != digest:
            raise Duplicate(f"{client!r} sent another masked vector before; the first one stands")
        if known is None:
            self._expect("collect", "masked vectors")
            self._state.uploads[client] = digest

    def freeze(self, sign: Sign) -> Survivors:
        """Step 4: the set of survivors, signed; once it is made there is no other. `dump` before it is sent."""
        if self._state.survivors is None:
            self._expect("collect", "a set of survivors")
            self._enough(self.uploaded, "sent masked vectors")
            roster = self.roster
            digest = sharers_digest(roster.digest, self.sharers)
            bare = Survivors(roster.terms.transcript, roster.digest, digest, self.uploaded)
            signature = sign(bare.signing_input())
            self._state.survivors = Survivors(bare.transcript, bare.roster, bare.sharers, bare.clients, signature)
            self._state.phase = "reveal"
        return self._state.survivors

    def reveal(self, answer: Reveal) -> None:
        """Step 5: a survivor's shares. `WrongShape` for any that were not asked for, `Stale` for another set."""
        survivors = self._survivors
        self._member(answer.client)
        if answer.client not in survivors.clients or answer.set_digest != survivors.digest:
            raise Stale(f"shares of {answer.client!r} for another set of survivors than the one that is frozen")
        alive = set(survivors.clients) - {answer.client}
        gone = set(self.sharers) - set(survivors.clients)
        if answer.seeds.keys() != alive or answer.masks.keys() != gone:
            raise WrongShape(
                f"{answer.client!r} reveals {len(answer.seeds)} self-seeds and {len(answer.masks)} mask keys; those of "
                f"{len(alive)} other survivors and of {len(gone)} who vanished are expected, never both of one"
            )
        for share in (*answer.seeds.values(), *answer.masks.values()):
            shamir.decode(share)
        known = self._reveals.setdefault(answer.client, answer)
        if known != answer:
            raise Duplicate(f"{answer.client!r} gave other shares before; the first ones stand")

    @property
    def enough(self) -> bool:
        """Whether the sum can be unmasked: t + 1 answers, or t where those who gave them can do without each other's."""
        return all(self._holders(who) >= self.roster.threshold for who in self.sharers)

    @property
    def _gone(self) -> tuple[str, ...]:
        return tuple(who for who in self.sharers if who not in self._survivors.clients)

    def _holders(self, owner: str) -> int:
        return len(self._reveals) - (owner in self._reveals)

    def unmasked(self, uploads: Mapping[str, Blob]) -> Iterator[Array]:
        """Step 6: the sum over the survivors modulo the width, block by block. uploads: their masked vectors, by client.

        `GroupLost` where reveals are too few or a secret is not what its owner advertised; nothing is unmasked then.
        """
        survivors, terms = self._survivors.clients, self.roster.terms
        keys = self._keys()
        if any(uploads[who].size != terms.payload_bytes for who in survivors):
            raise WrongShape(f"masked vectors of other than {terms.payload_bytes} bytes")
        return _added([uploads[who] for who in survivors], pads.Pads(*keys, terms.cipher, terms.dtype), terms.payload_bytes)

    def settle(self, uploads: Mapping[str, Blob], law: Law) -> GroupSum:
        """The sum, unmasked and tested. `OutsideLaw`: the group is void, and somebody in it broke the law."""
        terms, at = self.roster.terms, 0
        residues = np.empty(terms.entries, terms.dtype)
        for block in self.unmasked(uploads):
            residues[at : at + len(block)] = block
            at += len(block)
        found = GroupSum(self._survivors.clients, residues, terms.margin)
        most = len(found.survivors) * terms.largest + terms.margin
        for block in found.blocks():
            if int(block.max()) > most:
                raise OutsideLaw(f"the group's sum has an entry of {int(block.max())}; {most} is the most that it can be")
        law(found.blocks(), len(found.survivors))
        return found

    def _keys(self) -> tuple[list[bytes], list[bytes]]:
        """Keys of the streams that take masks off: to be added, to be subtracted."""
        if not self.enough:
            raise GroupLost(
                f"{len(self._reveals)} of {len(self._survivors.clients)} survivors revealed; "
                f"{self.roster.threshold + 1} are needed"
            )
        roster, alive, transcript = self.roster, self._survivors.clients, self.roster.terms.transcript
        digest = roster.digest
        plus, minus = list[bytes](), list[bytes]()
        adverts = {one.client: one for one in roster.members}
        for who in alive:
            commitment = adverts[who].seed_commitment
            seed = self._secret(who, "seeds", lambda found, o=who, c=commitment: seed_commitment(found, transcript, o) == c)
            minus.append(sealing.self_key(seed, transcript, digest, who))
        for who in self._gone:
            public = adverts[who].mask_key
            private = self._secret(who, "masks", lambda found, p=public: sealing.public_of(found) == p)
            own = sealing.loaded(private)
            for one in alive:
                key = sealing.pair_key(own, adverts[one].mask_key, transcript, digest, who, one)
                (minus if one < who else plus).append(key)
        return plus, minus

    def _secret(self, owner: str, kind: Literal["seeds", "masks"], right: Callable[..., bool]) -> bytes:
        shares = {
            self._places[who]: shamir.decode(getattr(answer, kind)[owner])
            for who, answer in sorted(self._reveals.items())
            if who != owner
        }
        suspects = {self._places[who] for who in self._suspects}
        secret = recovered(shares, self.roster.threshold, right, suspects)
        ids = self.roster.ids
        self._suspects |= {ids[place - 1] for place in suspects}
        if secret is None:
            self._suspects.add(owner)
            raise GroupLost(f"the shares of {owner!r} do not give what it advertised; the group's sum stays masked")
        return secret

    @property
    def _survivors(self) -> Survivors:
        if self._state.survivors is None:
            raise Stale("no set of survivors is frozen yet")
        return self._state.survivors

    def _member(self, who: str) -> None:
        if who not in self._places:
            raise WrongShape(f"{who[:64]!r} is no member of this group")

    def _expect(self, phase: Phase, what: str) -> None:
        if self.phase != phase:
            raise Stale(f"{what} are no longer, or not yet, taken: the group is at {self.phase!r}")

    def _enough(self, who: tuple[str, ...], what: str) -> None:
        if len(who) < self.roster.threshold + 1:
            raise GroupLost(
                f"{len(who)} of {len(self._places)} members {what}; {self.roster.threshold + 1} are needed, "
                "so nothing is revealed"
            )

    def __repr__(self) -> str:
        return f"<masked group of {len(self._places)}, {self.phase}>"


def _added(uploads: Sequence[Blob], masks: pads.Pads, size: int) -> Iterator[Array]:
    dtype = masks.dtype
    for start in range(0, size, pads.BLOCK_BYTES):
        stop = min(start + pads.BLOCK_BYTES, size)
        total = np.zeros((stop - start) // dtype.itemsize, dtype)
        for upload in uploads:
            total += np.frombuffer(upload.read(start, stop), dtype)
        masks.lay(total)
        yield total
