"""Bristle: peers that exchange heads on a frozen backbone and trust each other class by class. See README.md."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.bristle.state import Settings

METHOD = Method(
    name="bristle",
    summary="Peers train heads on a frozen backbone and take over columns from those who do well on their own test records",
    source="Verbraeken, de Vos and Pouwelse 2021, arXiv:2110.11006",
    settings=Settings,
    package=__name__,
    # Updates are listed by digest and move the local state: neither masks nor a second version are possible.
    needs=lambda settings: Needs(durable_outbox=True, peers=True),
)
