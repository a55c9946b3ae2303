"""DP-EF SGD: private SGD on the devices whose clipping loses nothing for good. See README.md for what it promises."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.baselines.fedavg.state import why_single
from edgehold.defenses.dp_ef_sgd.state import Settings

METHOD = Method(
    name="dp_ef_sgd",
    summary="Each device adds noise to its own clipped gradient sums; what clipping cuts off is fed back",
    source="Zhang, Bu, Wu and Hong 2024, arXiv:2311.14632, with accounts of our own",
    settings=Settings,
    package=__name__,
    needs=lambda settings: Needs(
        individual_updates=why_single(settings.combining()) if settings else "", durable_outbox=True, torch=True, charges=True
    ),
)
