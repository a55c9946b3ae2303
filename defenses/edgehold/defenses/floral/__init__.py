"""FLORAL: kernel support vector machines trained against label flips, as heads over public features. See README.md."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.baselines.fedavg.state import why_single
from edgehold.defenses.floral.state import Settings

METHOD = Method(
    name="floral",
    summary="Each device trains a kernel SVM against flips of its own labels; the server combines the heads",
    source="Bal, Cevher and Muehlebach 2025, arXiv:2502.17121",
    settings=Settings,
    package=__name__,
    # The dual weights move with each update, so it must not be made twice.
    needs=lambda settings: Needs(individual_updates=why_single(settings.folding()) if settings else "", durable_outbox=True),
)
