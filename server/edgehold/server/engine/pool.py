"""The virtual devices of a run spread over processes: each client has a home, and whoever is done helps the others.

Processes are spawned, never forked: torch and its threads do not survive a fork. Nothing depends on who works for whom.
"""

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from tempfile import TemporaryDirectory
from typing import Any

from edgehold.core.contract import Payload
from edgehold.core.errors import ConfigError, FlError
from edgehold.core.vectors import Bytes
from edgehold.server.engine.work import Answer, Job, Setting, Workplace

BUNDLE = 8
"""Jobs per message: few enough that processes end a round together."""


class Pool:
    """setting: must be picklable; `ConfigError` says so when it is not. workers: how many processes."""

    def __init__(self, setting: Setting, workers: int) -> None:
        try:
            packed = pickle.dumps(setting)
        except Exception as error:
            raise ConfigError(
                f"these clients cannot be sent to other processes ({error}); give them as a VirtualFleet with named "
                "adversaries, or use one worker",
                field="workers",
            ) from error
        self._bundle = BUNDLE if not setting.batch else 8 * BUNDLE
        context = multiprocessing.get_context("spawn")
        self._folder = TemporaryDirectory(prefix="edgehold-orders-")
        self._sent = 0
        self._home = {client: number % workers for number, client in enumerate(sorted(setting.tasks))}
        self._links: list[Connection] = []
        self._processes = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, packed, self._folder.name), daemon=True)
            process.start()
            theirs.close()
            self._links.append(ours)
            self._processes.append(process)
        self._order: Payload | None = None
        self._path = ""

    def work(self, number: int, order: Payload, jobs: Sequence[Job], letters: str = "") -> Iterator[Answer]:
        """Answers to one order of round `number`, as they come. letters: folder of what was sent in the round before."""
        if order is not self._order:
            self._order, self._path = order, self._publish(order)
        queues: list[deque[Job]] = [deque() for _ in self._links]
        for job in jobs:
            queues[self._home[job.client]].append(job)
        busy: dict[Any, int] = {}

        def give(worker: int) -> None:
            # Nothing left at home: help whoever has most to do.
            queue = queues[worker] or max(queues, key=len)
            if queue:
                bundle = [queue.popleft() for _ in range(min(self._bundle, len(queue)))]
                try:
                    self._links[worker].send((number, order.header, self._path, bundle, letters))
                except OSError:
                    raise self._ended(worker) from None
                busy[self._links[worker]] = worker

        for worker in range(len(self._links)):
            give(worker)
        while busy:
            for link in wait(list(busy)):
                worker = busy.pop(link)
                try:
                    found: list[Answer] | Exception = self._links[worker].recv()
                except (EOFError, OSError):
                    raise self._ended(worker) from None
                if isinstance(found, Exception):
                    raise found
                give(worker)
                yield from found

    def close(self) -> None:
        """End the processes."""
        for link in self._links:
            link.close()
        for process in self._processes:
            process.join(2.0)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()

    def _ended(self, worker: int) -> FlError:
        self._processes[worker].join(2.0)
        code = self._processes[worker].exitcode
        return FlError(f"a process of virtual clients ended (exit code {code}); was it out of memory?")

    def _publish(self, order: Payload) -> str:
        """The order's body as a file that every process maps: sent once, whatever the number of processes."""
        self._sent += 1
        path = os.path.join(self._folder.name, f"{self._sent}.order")
        with open(path, "wb") as file:
            file.write(order.body.read(0, order.body.size))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder.name, f"{self._sent - 1}.order"))
        return path


def _serve(link: Connection, packed: bytes, folder: str) -> None:
    """A worker process: answer bundles until the other side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    with contextlib.suppress(EOFError, OSError):
        _answer(link, packed)
    # Whoever started us may have been killed: then nobody else tidies up.
    shutil.rmtree(folder, ignore_errors=True)


def _answer(link: Connection, packed: bytes) -> None:
    place: Workplace | None = None
    last, order = "", Payload(b"", Bytes(b""))
    while True:
        number, header, path, bundle, letters = link.recv()
        try:
            if place is None:
                place = Workplace(pickle.loads(packed))  # noqa: S301  (from the parent, over its own pipe)
            if path != last:
                with open(path, "rb") as file:
                    last, order = path, Payload(header, Bytes(file.read()))
            reply: list[Answer] | Exception = list(place.work(number, order, bundle, letters))
        except FlError as error:
            reply = error
        except Exception as error:
            reply = FlError(f"{type(error).__name__}: {error}")
        link.send(reply)
