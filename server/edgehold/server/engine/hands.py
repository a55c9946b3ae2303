"""Who does the clients' work: this process, or all cores where that pays. Keeps their local states in the meantime."""

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

from edgehold.core.contract import Payload
from edgehold.defenses import registry
from edgehold.server.engine.fleet import VirtualFleet
from edgehold.server.engine.letters import Letters
from edgehold.server.engine.pool import Pool
from edgehold.server.engine.store import Store
from edgehold.server.engine.work import Answer, Job, Setting, Workplace

PAYS_S = 15.0
"""Work left, in seconds of one process, from which on other processes are worth their start (2 to 4 s of all cores)."""
CHUNK = 256
"""Jobs handed over at once, so that local states do not all stand in memory."""


class Hands:
    """workers: processes; 1: this one; None: this one until `consider` finds that more pay."""

    def __init__(self, setting: Setting, store: Store, workers: int | None) -> None:
        self._setting, self._store = setting, store
        self._automatic = workers is None and isinstance(setting.tasks, VirtualFleet) and not setting.batch
        self._pool = Pool(setting, workers) if workers is not None and workers > 1 else None
        self._here = Workplace(setting) if self._pool is None else None
        self._letters = Letters(store.letters()) if registry.method(setting.method).needs(None).peers else None
        # Local states after the round under way: a repeated attempt starts from the committed ones before it.
        self._pending: dict[str, bytes] = {}

    @property
    def batch(self) -> bool:
        """Whether clients are trained together where that pays."""
        return self._setting.batch

    def work(self, number: int, order: Payload, clients: Sequence[str]) -> Iterator[Answer]:
        """Answers of these clients, in any order."""
        for at in range(0, len(clients), CHUNK):
            jobs = [Job(client, self._store.local(client)) for client in clients[at : at + CHUNK]]
            kept = {job.client: job.kept for job in jobs}
            place = self._pool or self._here
            assert place is not None
            for answer in place.work(number, order, jobs, self._letters.folder if self._letters else ""):
                if answer.local is not None and answer.local != kept[answer.client]:
                    self._pending[answer.client] = answer.local
                yield answer

    def settle(self) -> dict[str, bytes]:
        """Local states that changed in the round, for the store; the next round starts from them."""
        done, self._pending = self._pending, {}
        return done

    def pass_on(self, letters: Mapping[str, bytes]) -> None:
        """What was sent in the round that is over: the devices of the next one read it."""
        if self._letters:
            self._letters.replace(letters)

    def consider(self, seconds: float, rounds_left: int) -> None:
        """A round took so long: spread the rest over all cores if that pays. The results are the same bit for bit."""
        cores = len(os.sched_getaffinity(0))
        if not self._automatic or self._pool or cores < 2 or seconds * rounds_left < PAYS_S:
            return
        self._automatic = False
        try:
            pickle.dumps(self._setting)
        except Exception:
            return  # attackers that cannot travel: they stay here
        self._pool, self._here = Pool(self._setting, cores), None

    def __enter__(self) -> "Hands":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool:
            self._pool.close()
        if self._letters:
            self._letters.close()
