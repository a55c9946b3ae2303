"""FRL: devices vote with rankings of a fixed random network's edges. See README.md for what it promises."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.frl.state import Settings, why_single

METHOD = Method(
    name="frl",
    summary="Weights stay random; devices rank the edges, the server adds the ranks and keeps the upper part of each layer",
    source="Mozaffari, Shejwalkar and Houmansadr 2023, arXiv:2110.04350",
    settings=Settings,
    package=__name__,
    needs=lambda settings: Needs(individual_updates=why_single(settings) if settings else "", torch=True),
)
