"""What every run of a server stands on."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgehold.server.identity.roster import Roster
from edgehold.server.metrics import Metrics
from edgehold.server.rounds.accounts import Accounts
from edgehold.server.rounds.admission import Admission
from edgehold.server.rounds.board import Board
from edgehold.server.rounds.evaluation import Evaluation
from edgehold.server.rounds.masked import Roots
from edgehold.server.rounds.sessions import Sessions
from edgehold.server.store.blobs import BlobStore
from edgehold.server.store.journal import Journal
from edgehold.server.store.spool import RoundKeys


@dataclass(slots=True)
class Floor:
    """What every run of a server shares.

    roots: of the federation, to which devices' certificates lead. record: run -> rounds to keep in a file of `transcripts`; see
    `ServerConfig`. ray: address of a cluster that works on blocks of updates, or "".
    """

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
    accounts: Accounts
    roots: Roots
    record: Mapping[str, Collection[int]] = field(default_factory=dict)
    transcripts: Path = Path()
    ray: str = ""
