"""FLORAL: kernel support vector machines trained against label flips, as heads over public features. See README.md."""

from edgehold.core.contract import Method, Needs
from edgehold.defenses.floral.state import Settings

METHOD = Method(
    name="floral",
    summary="Each device trains a kernel SVM against flips of its own labels; the server combines the heads",
    source="Bal, Cevher and Muehlebach 2025, arXiv:2502.17121",
    settings=Settings,
    package=__name__,
    # Rules and clipping look at single heads; the dual weights move with each update, so it must not be made twice.
    needs=lambda settings: Needs(durable_outbox=True, torch=False),
)
