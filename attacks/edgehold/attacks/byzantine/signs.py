"""Lies in sign bits, against HideNseek: the own vote inverted, or the colluders' common vote inverted by all of them.

"invert" knows only its own honest bits (K0); "invert_majority" those of all colluders (K1), through a folder of their own
(`channel`). Everything they send is lawful: any bits are.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.signs:make",
options = {lie = "invert_majority", folder = "...", colluders = 2}.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.channel import Channel
from edgehold.core.config import suggest
from edgehold.core.contract import Adversary, ClientSide, Facts
from edgehold.core.errors import ConfigError
from edgehold.core.task import Task
from edgehold.core.vectors import Array, Vector
from edgehold.defenses.hidenseek.packing import pack_bits
from edgehold.defenses.hidenseek.state import Bits, Order, Update

Lie = Callable[[Bits, Sequence[Bits]], Bits]
"""(own honest bits, honest bits of all colluders, the own ones among them) -> what to send."""


def invert(own: Bits, known: Sequence[Bits]) -> Bits:
    """Every bit turned."""
    return ~own


def invert_majority(own: Bits, known: Sequence[Bits]) -> Bits:
    """What most colluders do not want; an even vote among them counts as the weight's own sign, as on the server."""
    return np.asarray(2 * np.sum(known, axis=0, dtype=np.int32) < len(known))


LIES: Mapping[str, Lie] = {"invert": invert, "invert_majority": invert_majority}


def bits_of(update: Any, kept: int) -> Bits:
    """The honest bits of an update, (kept,); `ConfigError` when the method's update has none."""
    if not isinstance(update, Update):
        raise ConfigError(f"this attack turns sign bits; {type(update).__qualname__} has none. Use it with method hidenseek")
    return np.unpackbits(update.bits.whole(), count=kept, bitorder="little").view(np.bool_)


def forged(bits: Bits) -> Update:
    """An update that votes so."""
    return Update(Vector.of(pack_bits(bits)))


def make(lie: str = "invert", folder: str = "", colluders: int = 1, wait_s: float = 5.0) -> Adversary:
    """Sends the lie of that name instead of the honest bits.

    folder: shared by the colluders alone, made if missing; "invert" needs none. wait_s: how long to wait for the others' bits
    of this round; after that their latest ones serve.
    """
    if lie not in LIES:
        raise ConfigError(f"lie = {lie!r}{suggest(lie, list(LIES))}")
    if colluders < 1:
        raise ConfigError(f"colluders = {colluders}; at least 1")
    shares = lie == "invert_majority" and colluders > 1
    if shares and not folder:
        raise ConfigError("several colluders need a folder that they share; set folder")
    channel = Channel(Path(folder), colluders, wait_s) if shares else None

    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        return SignLiar(honest, client, LIES[lie], channel)

    return adversary


@dataclass(frozen=True)
class SignLiar:
    """Works honestly, then sends the lie instead of its bits. channel: None for a liar who tells nobody."""

    honest: ClientSide[Any, Any, Any]
    client: str
    lie: Lie
    channel: Channel | None = None

    def begin(self, order: Any, task: Task, rng: np.random.Generator) -> Any:
        """As the honest client."""
        return self.honest.begin(order, task, rng)

    def work(self, order: Any, local: Any, task: Task, rng: np.random.Generator) -> tuple[Any, Any, Facts]:
        """Honest work with other bits."""
        local, update, facts = self.honest.work(order, local, task, rng)
        own = bits_of(update, int(order.mask.sum()) if isinstance(order, Order) else 0)
        known = [own] if self.channel is None else _shared(self.channel, self.client, order, own)
        return local, forged(self.lie(own, known)), facts

    def dump(self, local: Any) -> bytes:
        """As the honest client."""
        return self.honest.dump(local)

    def load(self, data: bytes) -> Any:
        """As the honest client."""
        return self.honest.load(data)


def _shared(channel: Channel, client: str, order: Order, own: Bits) -> list[Bits]:
    """All colluders' bits. Files of another network are left aside."""
    key = hashlib.sha256(order.round.to_bytes(8, "little") + pack_bits(order.mask).tobytes() + order.counts.tobytes()).digest()
    mine: Array = pack_bits(own)
    found = [data for data in channel.share_bytes(client, key, mine.tobytes()) if len(data) == len(mine)]
    return [np.unpackbits(np.frombuffer(data, np.uint8), count=len(own), bitorder="little").view(np.bool_) for data in found]
