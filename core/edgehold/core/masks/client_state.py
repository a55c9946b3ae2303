"""What a device knows in the midst of a masked sum, and its bytes. Secrets are in it: whoever stores it seals it."""

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from edgehold.core.errors import JournalError
from edgehold.core.masks.messages import Advert, Roster
from edgehold.core.masks.terms import Terms

Phase = Literal["advertised", "shared", "delivered", "masked", "revealed"]


@dataclass(slots=True)
class ClientState:
    """phase: the last step that is done. Private keys, seeds: 32 bytes each. held: shares of others' secrets, by owner,
    33 bytes each: self-seed, mask key. renewed: the vector is of this attempt alone. No field with a secret is ever shown.
    """

    phase: Phase
    terms: Terms
    advert: Advert
    mask_private: bytes = field(repr=False)
    seal_private: bytes = field(repr=False)
    self_seed: bytes = field(repr=False)
    share_key: bytes = field(repr=False)
    roster: Roster | None = field(default=None, repr=False)
    held: dict[str, tuple[bytes, bytes]] = field(default_factory=dict, repr=False)
    sharers: tuple[str, ...] = ()
    renewed: bool = False
    upload_digest: bytes = b""
    set_digest: bytes = b""

    def forget(self) -> None:
        """Let go of every secret. Python may keep copies of bytes in memory for a while; none are kept in the state."""
        self.mask_private = self.seal_private = self.self_seed = self.share_key = b""
        self.held = {}

    def dump(self) -> bytes:
        """As bytes, secrets included."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def load(cls, data: bytes) -> "ClientState":
        """Inverse of `dump`; `JournalError` for anything else, never quoting it."""
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise JournalError("the stored state of a masked sum is damaged; the attempt is lost to this device") from None
