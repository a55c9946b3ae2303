"""FedAvg: devices train, the server folds their changes by a rule of choice. See README.md for what it promises."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.baselines.fedavg.state import Settings, why_single

METHOD = Method(
    name="fedavg",
    summary="Local SGD on every device; the server combines the changes by an average or a robust rule",
    source="McMahan et al. 2017, arXiv:1602.05629; FedProx: Li et al. 2020, arXiv:1812.06127",
    settings=Settings,
    package=__name__,
    needs=lambda settings: Needs(individual_updates=why_single(settings) if settings else ""),
)
