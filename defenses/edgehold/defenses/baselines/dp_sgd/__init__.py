"""DP-SGD: the baseline of `edgehold.defenses.dp_ef_sgd`, on the same path, without error feedback. See README.md."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.baselines.fedavg.state import why_single
from edgehold.defenses.dp_ef_sgd.state import PlainSettings

METHOD = Method(
    name="dp_sgd",
    summary="Each device adds noise to its own clipped gradient sums",
    source="Abadi et al. 2016, arXiv:1607.00133",
    settings=PlainSettings,
    package="edgehold.defenses.dp_ef_sgd",
    needs=lambda settings: Needs(
        individual_updates=why_single(settings.combining()) if settings else "", durable_outbox=True, torch=True, charges=True
    ),
)
