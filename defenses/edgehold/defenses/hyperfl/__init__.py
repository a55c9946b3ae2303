"""HyperFL: devices share a hypernetwork that generates their feature extractors. See README.md for what it promises."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.baselines.fedavg.state import why_single
from edgehold.defenses.hyperfl.state import Settings

METHOD = Method(
    name="hyperfl",
    summary="Devices train a shared hypernetwork; its private input and the classifier head never leave them",
    source="Guo et al. 2025, arXiv:2412.07187",
    settings=Settings,
    package=__name__,
    # Embedding and head move with each update, so it must not be made twice.
    needs=lambda settings: Needs(
        individual_updates=why_single(settings.folding()) if settings else "",
        durable_outbox=True,
        torch=True,
        charges=settings is None or settings.noisy,
    ),
)
