"""Noise-robust ADMM: least squares and convex losses over noisy links. See README.md for what it promises."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.noise_robust_admm.state import Settings, why_single

METHOD = Method(
    name="noise_robust_admm",
    summary="Devices solve their own problem near a consensus; noise on the links does not pile up",
    source="Lari et al. 2024, arXiv:2409.13451; anchored form ours",
    settings=Settings,
    package=__name__,
    # Local state moves with every round, and noise on the link must not be drawn twice.
    needs=lambda settings: Needs(individual_updates=why_single(settings), durable_outbox=True),
)
