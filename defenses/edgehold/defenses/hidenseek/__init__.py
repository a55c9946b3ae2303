"""HideNseek: devices vote on the signs of a pruned random network's weights. See README.md for what it promises."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.hidenseek.state import Settings

METHOD = Method(
    name="hidenseek",
    summary="The server prunes a random network once; devices vote on the sign of each weight that is left",
    source="Vallapuram et al. 2022, arXiv:2206.04385",
    settings=Settings,
    package=__name__,
    needs=lambda settings: Needs(individual_updates="", torch=True),
    first_weights=True,
)
