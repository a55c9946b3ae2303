"""The collecting side before there are groups: adverts come in, and groups are drawn. See `group` for what follows."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from cryptography import x509

from edgehold.core.errors import BadSignature, ConfigError, Duplicate, IdentityError, JournalError, Stale, WrongShape
from edgehold.core.masks import draw, members
from edgehold.core.masks.draw import Entrant
from edgehold.core.masks.messages import Advert, Roster
from edgehold.core.masks.terms import SYSTEM, Source, Terms


@dataclass(slots=True)
class _State:
    terms: Terms
    value: bytes
    invited: tuple[Entrant, ...]
    adverts: dict[str, Advert] = field(default_factory=dict)
    closed: bool = False


def draw_value(source: Source = SYSTEM) -> bytes:
    """The value that groups are drawn from, 32 bytes: to be committed to in the terms, and told only with the rosters."""
    return source(32)


class Gathering:
    """Adverts of one attempt. value: from `draw_value`; invited: all who are asked, with the company they had.

    `dump` after each receipt (or keep the adverts and give them again: the same ones give the same groups).
    """

    def __init__(self, terms: Terms, value: bytes, invited: Sequence[Entrant]) -> None:
        if terms.fault():
            raise ConfigError(f"no masked sum on these terms: {terms.fault()}")
        if draw.commitment(value, invited) != terms.draw_commitment:
            raise ConfigError("the terms commit to another draw than this one")
        self._state = _State(terms, value, tuple(sorted(invited, key=lambda one: one.client)))

    @classmethod
    def restore(cls, data: bytes) -> "Gathering":
        """Where `dump` left off."""
        found = cls.__new__(cls)
        try:
            found._state = msgspec.msgpack.decode(data, type=_State)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise JournalError(f"the stored adverts of a masked sum are damaged: {error}") from None
        return found

    def dump(self) -> bytes:
        """All there is to go on from; nothing in it is secret but the draw's value, until rosters are out."""
        return msgspec.msgpack.encode(self._state)

    @property
    def adverts(self) -> dict[str, Advert]:
        """Those that came, by client."""
        return dict(self._state.adverts)

    def add(self, advert: Advert, roots: Sequence[x509.Certificate], now_s: float) -> bytes:
        """The advert's digest, as receipt; the same for the same advert. client: the caller's, checked against its certificate.

        `Stale` for another attempt or after the draw, `IdentityError` or `BadSignature` for a forged one, `Duplicate` for other
        keys than before.
        """
        state = self._state
        known = state.adverts.get(advert.client)
        if known is not None:
            if known.digest != advert.digest:
                raise Duplicate(f"{advert.client[:64]!r} sent other keys for this attempt before; the first ones stand")
            return known.digest
        if state.closed:
            raise Stale("the groups of this attempt are drawn; this device takes part in the next round")
        if advert.client not in {one.client for one in state.invited}:
            raise Stale(f"{advert.client[:64]!r} was not selected for this round")
        word, why = members.fault(advert, state.terms, roots, now_s)
        if word:
            raise _REFUSED.get(word, IdentityError)(why)
        # With one key twice in it devices refuse the whole group: the one who would bring that about is refused instead.
        keys = {key for one in state.adverts.values() for key in (one.mask_key, one.seal_key, one.signing_key)}
        if advert.mask_key == advert.seal_key or keys & {advert.mask_key, advert.seal_key, advert.signing_key}:
            raise WrongShape(f"the advert of {advert.client[:64]!r} has a key that is in use already")
        state.adverts[advert.client] = advert
        return advert.digest

    def readmit(self, advert: Advert) -> None:
        """An advert that `add` took before a restart; not judged again, since certificates and roots may have changed since."""
        self._state.adverts[advert.client] = advert

    def close(self) -> tuple[Roster, ...]:
        """Draw the groups; asked again, the same. `GroupLost` where fewer than the floor came."""
        state = self._state
        everyone = tuple(
            Entrant(one.client, one.company, state.adverts[one.client].digest if one.client in state.adverts else b"")
            for one in state.invited
        )
        groups = draw.groups(state.value, everyone, state.terms.least, state.terms.most)
        state.closed = True
        return tuple(Roster(state.terms, state.value, everyone, tuple(state.adverts[who] for who in group)) for group in groups)


_REFUSED = {
    "unequal_transcripts": Stale,
    "malformed_advert": WrongShape,
    "weak_key": WrongShape,
    "forged_signature": BadSignature,
}
