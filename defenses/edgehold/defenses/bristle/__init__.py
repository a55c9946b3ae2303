"""Bristle: peers that exchange heads on a frozen backbone and trust each other class by class. See README.md."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.bristle.state import Settings

METHOD = Method(
    name="bristle",
    summary="Peers train heads on a frozen backbone and take over columns from those who do well on their own test records",
    source="Verbraeken, de Vos and Pouwelse 2021, arXiv:2110.11006",
    settings=Settings,
    package=__name__,
    # Updates are listed by digest and move the local state: a second version is not possible.
    needs=lambda settings: Needs(
        individual_updates="devices read each other's heads one by one, and trust each sender class by class",
        durable_outbox=True,
        peers=True,
    ),
)
