"""The demo's processes: which they are, and that none outlives it."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from types import FrameType

import psutil

from edgehold.attacks.testbed import STOP_S, Federation


def interruptible() -> None:
    """From now on SIGTERM ends the demo as Ctrl-C does.

    Python's own handler stands for Ctrl-C: only then asyncio cancels what runs and lets a call of gRPC come to its end. A
    handler of ours would raise in the middle of gRPC's native code, which then corrupts its heap.
    """
    signal.signal(signal.SIGTERM, _as_interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)


def helpers(bed: Federation) -> set[psutil.Process]:
    """Processes that the server started: the one that scores models."""
    child = bed.daemon.child
    return set(psutil.Process(child.pid).children(recursive=True)) if child and bed.daemon.alive else set()


class Processes:
    """All that a federation starts from now on, also what it has not noted itself."""

    def __init__(self, bed: Federation) -> None:
        self._bed = bed
        self._strangers = _children()
        self._helpers = set[psutil.Process]()

    def note_helpers(self) -> None:
        """Remember the server's children: they can be found only while it lives."""
        self._helpers |= helpers(self._bed)

    def stop(self) -> None:
        """End every process: all are asked at once, and none outlives its deadline."""
        with _undisturbed():
            self.note_helpers()
            # Not only those the bed knows of: an interruption in the middle of a start leaves a child nobody has noted yet.
            ours = (_children() | self._helpers) - self._strangers
            for one in ours - self._helpers:  # these end with the server
                with contextlib.suppress(psutil.Error):
                    one.terminate()
            end = time.monotonic() + STOP_S
            for process in (*self._bed.clients.values(), self._bed.daemon):
                if process.child:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.1, end - time.monotonic()))
            for one in psutil.wait_procs(ours, 1.0)[1]:
                with contextlib.suppress(psutil.Error):
                    one.kill()
            psutil.wait_procs(ours, 5.0)


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Another Ctrl-C must not leave processes behind. Outside the main thread there are no signals to keep away."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.default_int_handler)
