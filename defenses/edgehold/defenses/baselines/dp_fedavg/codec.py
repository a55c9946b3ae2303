"""DP-FedAvg on the wire: FedAvg's messages under a kind of their own."""

from edgehold.defenses.baselines.dp_fedavg.state import Settings
from edgehold.defenses.baselines.fedavg.codec import FedAvgCodec


class DpFedAvgCodec(FedAvgCodec):
    """settings: the plan's, or None on a device. C may grow a thousandfold before an update is refused instead of clipped."""

    kind = "dp_fedavg/1"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings.combining() if settings else None)


def codec(settings: Settings | None = None) -> DpFedAvgCodec:
    """The codec."""
    return DpFedAvgCodec(settings)
