"""The device's machine: advertise, share, mask, reveal. What it refuses, and why, stands in `edgehold.core.masks.refusals`.

Each step returns what is to be sent. Before that leaves, the caller stores `dump()`; a machine restored from it gives the same
bytes again. The masked vector is the exception: it is stored itself, and only what is stored is ever sent, because another
vector under the same masks would show the difference of the two.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from cryptography import x509

from edgehold.core.errors import AttemptSpent, OutOfStep, OutsideLaw, SecondSet, TermsRefused, WrongShape
from edgehold.core.masks import pads, refusals, sealing, shamir
from edgehold.core.masks.client_state import ClientState, Phase
from edgehold.core.masks.journal import Revealed, RevealJournal
from edgehold.core.masks.members import Sign
from edgehold.core.masks.messages import Advert, Box, Reveal, Roster, Survivors, seed_commitment
from edgehold.core.masks.terms import SYSTEM, Source, Terms
from edgehold.core.vectors import Array


class MaskClient:
    """One device in one attempt. Begin with `advertise`, or go on with `restore`. Not for several threads at once."""

    def __init__(
        self, state: ClientState, roots: Sequence[x509.Certificate], server_key: bytes, journal: RevealJournal
    ) -> None:
        self._state, self._roots, self._server_key, self._journal = state, roots, server_key, journal

    @classmethod
    def advertise(
        cls,
        terms: Terms,
        client: str,
        *,
        certificate: bytes,
        signing_key: bytes,
        sign: Sign,
        roots: Sequence[x509.Certificate],
        server_key: bytes,
        journal: RevealJournal,
        renewed: bool = False,
        source: Source = SYSTEM,
    ) -> "MaskClient":
        """Step 1: fresh keys. `advert` is what is sent.

        terms: made from the task that this device verified itself, never from what a roster says. certificate: DER, with
        signing_key's fingerprint. server_key: raw Ed25519, of whoever signs sets of survivors. renewed: the vector carries
        noise that was drawn and charged for this attempt alone, so that it may be added up again. Refuses terms that make no
        sum (`TermsRefused`), and a vector that was already added up (`AttemptSpent`).
        """
        if terms.fault():
            raise TermsRefused(f"no masked sum on these terms: {terms.fault()}", reason="impossible_terms")
        _unspent(journal.revealed(terms.federation, terms.run, terms.round), terms, renewed)
        mask_private, seal_private, seed, share_key = (source(sealing.KEY_BYTES) for _ in range(4))
        public = sealing.public_of(mask_private), sealing.public_of(seal_private)
        transcript = terms.transcript
        bare = Advert(client, transcript, *public, seed_commitment(seed, transcript, client), certificate, signing_key)
        # The signature goes in last; everything it covers stands.
        advert = Advert(client, transcript, *public, bare.seed_commitment, certificate, signing_key, sign(bare.signing_input()))
        state = ClientState("advertised", terms, advert, mask_private, seal_private, seed, share_key, renewed=renewed)
        return cls(state, roots, server_key, journal)

    @classmethod
    def restore(
        cls, data: bytes, *, roots: Sequence[x509.Certificate], server_key: bytes, journal: RevealJournal
    ) -> "MaskClient":
        """Where `dump` left off."""
        return cls(ClientState.load(data), roots, server_key, journal)

    def dump(self) -> bytes:
        """All there is to go on from, secrets included: to be sealed where it is stored."""
        return self._state.dump()

    @property
    def advert(self) -> Advert:
        """What step 1 sends."""
        return self._state.advert

    @property
    def phase(self) -> Phase:
        """The last step that is done."""
        return self._state.phase

    def share(self, roster: Roster, now_s: float) -> tuple[Box, ...]:
        """Step 2: both secrets, split and sealed for each other member. Asked again with the same roster: the same boxes.

        now_s: seconds since 1970, for certificates. Refusals: `refusals.roster`; a second roster.
        """
        state = self._state
        if state.roster is not None:
            if state.roster.digest != roster.digest:
                raise OutOfStep(
                    "another roster for an attempt whose shares were sealed already; a new group needs a new attempt",
                    reason="second_roster",
                )
        else:
            self._expect("share", "advertised")
            refusals.roster(roster, state.terms, state.advert, self._roots, now_s)
            state.roster, state.phase = roster, "shared"
        return self._boxes(roster)

    def share_again(self) -> tuple[Box, ...]:
        """Step 2 once more, after a restart: the same boxes."""
        return self._boxes(self._roster)

    @property
    def members(self) -> tuple[str, ...]:
        """Ids of this device's group."""
        return self._roster.ids

    def _boxes(self, roster: Roster) -> tuple[Box, ...]:
        state, me, digest = self._state, self._me, roster.digest
        others = [one for one in roster.members if one.client != me]
        places = [roster.place(one.client) for one in others]
        size = shamir.random_bytes(roster.threshold)
        random = pads.keystream(sealing.derived(state.share_key, "share randomness", digest), 2 * size)
        seeds = shamir.split(state.self_seed, roster.threshold, places, random[:size])
        masks = shamir.split(state.mask_private, roster.threshold, places, random[size:])
        boxes = []
        own, transcript = sealing.loaded(state.seal_private), state.terms.transcript
        for one, seed, mask in zip(others, seeds, masks, strict=True):
            key = sealing.box_key(own, one.seal_key, transcript, digest, me, one.client)
            boxes.append(Box(me, one.client, sealing.seal(key, seed, mask)))
        return tuple(boxes)

    def receive(self, boxes: Sequence[Box]) -> None:
        """The boxes that others sealed for this device. Who sent none is not masked with. Refusals: `refusals.boxes`."""
        state, me, roster = self._state, self._me, self._roster
        if state.phase == "shared":
            held = refusals.boxes(boxes, roster, me, state.seal_private)
            state.held = {who: (shamir.encode(seed), shamir.encode(mask)) for who, (seed, mask) in held.items()}
            state.sharers = tuple(sorted((me, *held)))
            state.phase = "delivered"
        elif tuple(sorted((me, *(box.sender for box in boxes)))) != state.sharers:
            raise OutOfStep("other boxes than those this device has laid its masks by", reason="second_shares")

    def mask(self, vector: Iterable[Array]) -> Iterator[Array]:
        """Step 3: the vector under its masks, as blocks of bytes that read (entries,) little-endian.

        vector: integers in [0, largest], less or more by the margin at most (noise), in blocks of any size. Store all of it
        before any of it leaves, then store `dump()`. A half-stored one may be thrown away and made again, as nothing has left.
        """
        self._expect("mask", "delivered")
        terms, digest, count = self._state.terms, hashlib.sha256(), 0
        laid = pads.Pads(*self._keys(), terms.cipher, terms.dtype)
        most = pads.BLOCK_BYTES // terms.dtype.itemsize
        for whole in vector:
            for start in range(0, len(whole), most):
                block = whole[start : start + most]
                _lawful(block, terms)
                masked = block.astype(terms.dtype)  # below zero: modulo the width
                count += len(masked)
                if count > terms.entries:
                    raise WrongShape(f"a vector of more than {terms.entries} entries")
                laid.lay(masked)
                digest.update(masked.data)
                yield masked.view(np.uint8)
        if count != terms.entries:
            raise WrongShape(f"a vector of {count} entries; {terms.entries} are expected")
        self._state.upload_digest, self._state.phase = digest.digest(), "masked"

    def adopt(self, upload_digest: bytes) -> None:
        """Go on with a masked vector that was stored whole before this device was killed. upload_digest: its SHA-256."""
        if self._state.phase != "masked":
            self._expect("adopt", "delivered")
            self._state.upload_digest, self._state.phase = upload_digest, "masked"

    @property
    def upload_digest(self) -> bytes:
        """SHA-256 of the masked vector, once it is made."""
        return self._state.upload_digest

    def reveal(self, survivors: Survivors) -> Reveal:
        """Step 5: shares that unmask the sum over this set and nothing else. Asked again with the same set: the same answer.

        It is journaled before it is returned. `SecondSet` must be met with silence. Other refusals: `refusals.survivors`.
        """
        state, me, roster = self._state, self._me, self._roster
        if state.phase not in ("masked", "revealed"):
            raise OutOfStep(f"shares are asked for after {state.phase!r}; this device sent no vector yet", reason="not_masked")
        refusals.survivors(survivors, roster, state.sharers, me, self._server_key)
        terms, digest = state.terms, survivors.digest
        written = self._journal.revealed(terms.federation, terms.run, terms.round)
        earlier = [one for one in written if one.attempt == terms.attempt]
        if any((one.transcript, one.set_digest) != (terms.transcript, digest) for one in earlier) or (
            state.set_digest not in (b"", digest)
        ):
            raise SecondSet("another set of survivors for an attempt that was answered already", reason="second_set")
        _unspent([one for one in written if one.attempt != terms.attempt], terms, state.renewed)
        if not earlier:
            what = Revealed(terms.federation, terms.run, terms.round, terms.attempt, terms.transcript, digest)
            self._journal.write(what)
        state.set_digest, state.phase = digest, "revealed"
        alive = set(survivors.clients)
        return Reveal(
            me,
            digest,
            {who: seed for who, (seed, _) in state.held.items() if who in alive},
            {who: mask for who, (_, mask) in state.held.items() if who not in alive},
        )

    def forget(self) -> None:
        """The attempt is over: no secret remains."""
        self._state.forget()

    def __repr__(self) -> str:
        return f"<mask client {self._me!r}, {self._state.phase}>"

    @property
    def _me(self) -> str:
        return self._state.advert.client

    @property
    def _roster(self) -> Roster:
        if self._state.roster is None:
            raise OutOfStep("no roster was received yet", reason="no_roster")
        return self._state.roster

    def _expect(self, step: str, phase: Phase) -> None:
        if self._state.phase != phase:
            raise OutOfStep(f"{step!r} follows {phase!r}, but this device has {self._state.phase!r}", reason=f"{step}_twice")

    def _keys(self) -> tuple[list[bytes], list[bytes]]:
        """Keys of the streams to add and to subtract: of two members the smaller id adds."""
        state, me, roster = self._state, self._me, self._roster
        transcript, digest = state.terms.transcript, roster.digest
        plus, minus = [sealing.self_key(state.self_seed, transcript, digest, me)], list[bytes]()
        own, publics = sealing.loaded(state.mask_private), {one.client: one.mask_key for one in roster.members}
        for who in state.held:
            key = sealing.pair_key(own, publics[who], transcript, digest, me, who)
            (plus if me < who else minus).append(key)
        return plus, minus


def _unspent(earlier: Sequence[Revealed], terms: Terms, renewed: bool) -> None:
    if any(one.attempt == terms.attempt for one in earlier):
        raise AttemptSpent(
            f"round {terms.round} attempt {terms.attempt} of {terms.run!r} was answered before", reason="replayed_attempt"
        )
    if earlier and not renewed:
        raise AttemptSpent(
            f"this device's update of round {terms.round} is in the sum of attempt {earlier[0].attempt} already; in another "
            "sum it could be read from the difference. It takes part again in the next round",
            reason="added_before",
        )


def _lawful(block: Array, terms: Terms) -> None:
    if block.dtype.kind not in "iu" or block.ndim != 1:
        raise WrongShape(f"a block of {block.dtype} with {block.ndim} dimensions; integers with one are expected")
    if len(block) and (int(block.min()) < -terms.margin or int(block.max()) > terms.largest + terms.margin):
        raise OutsideLaw(f"an entry outside [0, {terms.largest}] by more than the margin of {terms.margin}; the sum could wrap")
