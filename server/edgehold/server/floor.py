"""What every run of a server stands on."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgehold.server.admission import Admission
from edgehold.server.blobs import BlobStore
from edgehold.server.board import Board
from edgehold.server.evaluation import Evaluation
from edgehold.server.journal import Journal
from edgehold.server.metrics import Metrics
from edgehold.server.roster import Roster
from edgehold.server.sessions import Sessions
from edgehold.server.spool import RoundKeys


@dataclass(slots=True)
class Floor:
    """What every run of a server shares."""

    federation: str
    signing_key: Ed25519PrivateKey
    journal: Journal
    roster: Roster
    sessions: Sessions
    board: Board
    admission: Admission
    keys: RoundKeys
    store: BlobStore
    spool: Path
    evaluation: Evaluation
    metrics: Metrics
    keep_models: int
