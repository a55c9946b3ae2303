"""The device's privacy ledger at work: which budget a task spends, what is charged, what the server is shown."""

import logging
import threading
from pathlib import Path

from edgehold.client.config import ClientConfig
from edgehold.client.policy import BudgetTable, PolicyFile
from edgehold.core.logs import event, peer_text
from edgehold.core.privacy.events import Event
from edgehold.core.privacy.ledger import Cause, Head, Ledger, Limit
from edgehold.proto.v1.control_pb2 import TaskAssignment

log = logging.getLogger("edgehold.client.accounts")


class Accounts:
    """path: of the ledger, opened when first needed: most devices of most runs have none. Any thread may call."""

    def __init__(self, path: Path, config: ClientConfig, policy: PolicyFile) -> None:
        self._path, self._config, self._policy = path, config, policy
        self._opening = threading.Lock()
        self._book: Ledger | None = None

    def admit(self, assignment: TaskAssignment, charges: bool) -> tuple[str, BudgetTable | None]:
        """The data set behind the task and its budget; `PolicyRefused` where method and budget do not belong together.

        charges: whether what the method releases is charged.
        """
        table = self._config.tasks.get(assignment.task)
        dataset = (table.dataset if table else None) or assignment.task
        return dataset, self._policy.current().budget(dataset, assignment.method, charges)

    def charge(self, assignment: TaskAssignment, released: tuple[Event, ...]) -> bool:
        """Charge the ledger for a task, by the policy as it stands now; nothing for nothing. Blocks on the disk.

        False when the local state does not go on from what was charged last; `LedgerRolledBack` when the server was shown a
        newer ledger than this one: it has forgotten releases, and would spend their budget again.
        """
        dataset, budget = self.admit(assignment, bool(released))
        if budget is None:
            return True
        ledger, where = self._ledger(), assignment.id
        ledger.must_know(Head(assignment.ledger_lines, assignment.ledger_hash or bytes(32)))
        cause = Cause(where.run, where.round, where.attempt, where.nonce, assignment.method)
        if not ledger.covers(cause, released) and not all(map(ledger.continues, released)):
            return False
        ledger.charge(dataset, Limit(budget.max_epsilon, budget.delta), cause, released)
        spent = round(ledger.epsilon(dataset, budget.delta), 4)
        names = {"run": peer_text(where.run), "round": where.round, "attempt": where.attempt}
        event(log, logging.INFO, "charged", dataset=dataset, epsilon=spent, **names)
        return True

    def head(self) -> Head | None:
        """What the server is to remember of the ledger; None where there is none."""
        # Without the lock where it is open: on the event loop nobody may wait for a disk.
        book = self._book or (self._ledger() if self._path.exists() else None)
        return book.head if book else None

    def close(self) -> None:
        """Close the file."""
        if self._book is not None:
            self._book.close()

    def _ledger(self) -> Ledger:
        with self._opening:
            if self._book is None:
                self._book = Ledger(self._path)
            return self._book
