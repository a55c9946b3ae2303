"""DP-FedAvg: the server adds noise to the average, for whole devices at once. See README.md for what it promises."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.baselines.dp_fedavg.state import Settings

METHOD = Method(
    name="dp_fedavg",
    summary="Devices send plain updates; the server clips them, by a bound that adapts, and adds noise to their sum",
    source="McMahan et al. 2018, arXiv:1710.06963; Andrew et al. 2021, arXiv:1905.03871",
    settings=Settings,
    package=__name__,
    needs=lambda settings: Needs(
        individual_updates="its server half clips each of them, and measures its norm (method fedavg with masks.norm and "
        "masks.noise_multiplier has devices clip, and bring the noise along)"
    ),
    central=True,
)
