"""The server's privacy ledger, for methods whose noise the server adds: charged between freeze and fold."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgehold.core.contract import Method
from edgehold.core.errors import ConfigError
from edgehold.core.logs import event
from edgehold.core.privacy.events import Event
from edgehold.core.privacy.ledger import Cause, Ledger, Limit
from edgehold.server.store.records import RoundRow

log = logging.getLogger("edgehold.server.rounds.accounts")


class Accounts:
    """budgets: by task; path: of the ledger, which is opened when first needed."""

    def __init__(self, path: Path, budgets: Mapping[str, Limit]) -> None:
        self._path, self._budgets = path, budgets
        self._ledger: Ledger | None = None

    def must_have(self, method: Method, task: str) -> None:
        """`ConfigError` when the method adds noise here and nobody has set a budget for the task."""
        if method.central and task not in self._budgets:
            raise ConfigError(
                f"method {method.name!r} spends a privacy budget; set max_epsilon and delta under "
                f"[budgets.{task}] in server.toml",
                field=f"budgets.{task}",
            )

    def charge(self, method: Method, task: str, row: RoundRow, survivors: Sequence[str], released: tuple[Event, ...]) -> None:
        """Charge a frozen round, durably; `BudgetSpent` when it does not fit. Blocks on the disk.

        The same frozen set is charged once, however often it is folded; the first noise never left, so it is drawn again.
        """
        self.must_have(method, task)
        if self._ledger is None:
            self._ledger = Ledger(self._path)
        key = hashlib.sha256(row.nonce + "\0".join(survivors).encode()).digest()
        self._ledger.charge(task, self._budgets[task], Cause(row.run, row.round, row.attempt, key, method.name), released)
        spent = self._ledger.epsilon(task, self._budgets[task].delta)
        event(log, logging.INFO, "charged", run=row.run, round=row.round, dataset=task, epsilon=round(spent, 4))

    def close(self) -> None:
        """Close the file."""
        if self._ledger is not None:
            self._ledger.close()
