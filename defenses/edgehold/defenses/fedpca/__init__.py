"""FedPCA: one subspace of normal records by consensus, for detecting anomalies. See README.md for what it promises."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.fedpca.state import Settings

METHOD = Method(
    name="fedpca",
    summary="Devices agree on a subspace of normal records and on a threshold; detects anomalies with NumPy alone",
    source="Nguyen et al. 2024, arXiv:2407.07421",
    settings=Settings,
    package=__name__,
    needs=lambda settings: Needs(individual_updates="its server half remembers by name what each device sent last"),
)
