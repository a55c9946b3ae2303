"""FedAvg: devices train, the server folds their changes by a rule of choice. See README.md for what it promises."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.baselines.fedavg.state import Settings

METHOD = Method(
    name="fedavg",
    summary="Local SGD on every device; the server combines the changes by an average or a robust rule",
    source="McMahan et al. 2017, arXiv:1602.05629; FedProx: Li et al. 2020, arXiv:1812.06127",
    settings=Settings,
    package=__name__,
    # Every rule here looks at single updates: even the average clips each of them first.
    needs=lambda settings: Needs(individual_updates=True, durable_outbox=False, torch=False),
)
