"""A whole run in one command: the same method halves, codecs, weights, order and random streams as the daemons.

For experiments, for tests, and as the reference the daemons must equal bit for bit. There are no clocks here, so nobody is
late: the clients beyond `cohort.size` that a round asks because of `over_select` only stand in for rejected ones.

`run` plays a plan over virtual clients. `VirtualFleet` makes thousands of them when they are needed, `Store` lets a run that
was killed go on, `Conspiracy` is the seam for attackers who know the whole round, `SumLiars` that for liars in masked sums.
"""

from edgehold.server.engine.conspiracy import Conspiracy, View
from edgehold.server.engine.fleet import VirtualFleet
from edgehold.server.engine.masked import GroupView, SumLiars
from edgehold.server.engine.result import Result, TooFewAdmitted, model_digest
from edgehold.server.engine.run import run
from edgehold.server.engine.store import Store

__all__ = [
    "Conspiracy",
    "GroupView",
    "Result",
    "Store",
    "SumLiars",
    "TooFewAdmitted",
    "View",
    "VirtualFleet",
    "model_digest",
    "run",
]
