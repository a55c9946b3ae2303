"""FRL: devices vote with rankings of a fixed random network's edges. See README.md for what it promises."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.frl.state import Settings

METHOD = Method(
    name="frl",
    summary="Weights stay random; devices rank the edges, the server adds the ranks and keeps the upper part of each layer",
    source="Mozaffari, Shejwalkar and Houmansadr 2023, arXiv:2110.04350",
    settings=Settings,
    package=__name__,
    # Ranks could be added under masks, but then nobody can check that each of them is a permutation.
    needs=lambda settings: Needs(durable_outbox=False, torch=True),
)
