"""Which layers are entropy-coded: where the bits saved take longer to send than the code takes to compute."""

from collections.abc import Sequence

from edgehold.defenses.frl.entropy import ENTROPY
from edgehold.defenses.frl.forms import PACKED
from edgehold.defenses.frl.state import Settings

NANOSECONDS = 150.0
"""Per edge and update, beyond packing: one encoding on the device, two decodings on the server (the law, the vote). Measured by
`./scripts/bench votes` on a busy machine, 104 and 135 on Conv8, and rounded up."""


def entropy_coded(settings: Settings, edges: Sequence[int]) -> tuple[bool, ...]:
    """One answer per layer, the same on every machine. edges: of the layers."""
    return tuple(_pays(settings, count) for count in edges)


def _pays(settings: Settings, edges: int) -> bool:
    saved = PACKED.size(edges) - ENTROPY.size(edges)
    if settings.coding == "packed" or saved <= 0:
        return False
    saved_s = saved * 8 / (settings.link_mbit_s * 1e6)
    return settings.coding == "entropy" or saved_s > edges * NANOSECONDS * 1e-9
