"""The server's privacy ledger, for methods whose noise the server adds: charged between freeze and fold."""

import hashlib
import logging
import threading
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
        self._lock = threading.Lock()
        self._known: tuple[int, dict[str, float]] = (-1, {})

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
        key = hashlib.sha256(row.nonce + "\0".join(survivors).encode()).digest()
        with self._lock:
            ledger = self._opened()
            ledger.charge(task, self._budgets[task], Cause(row.run, row.round, row.attempt, key, method.name), released)
            spent = ledger.epsilon(task, self._budgets[task].delta)
        event(log, logging.INFO, "charged", run=row.run, round=row.round, dataset=task, epsilon=round(spent, 4))

    @property
    def budgets(self) -> Mapping[str, Limit]:
        """By task."""
        return self._budgets

    def spent(self) -> Mapping[str, float]:
        """Epsilon spent at the budget's delta, for each task that has one. Blocks on the disk when first asked."""
        with self._lock:
            if not self._budgets or (self._ledger is None and not self._path.exists()):
                return dict.fromkeys(self._budgets, 0.0)
            ledger = self._opened()
            if self._known[0] != ledger.head.lines:
                found = {task: ledger.epsilon(task, limit.delta) for task, limit in self._budgets.items()}
                self._known = (ledger.head.lines, found)
            return self._known[1]

    def _opened(self) -> Ledger:
        if self._ledger is None:
            self._ledger = Ledger(self._path)
        return self._ledger

    def close(self) -> None:
        """Close the file."""
        if self._ledger is not None:
            self._ledger.close()
