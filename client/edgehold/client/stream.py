"""Where records come from, and how a stream of them is ended."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from edgehold.core.errors import ConfigError


def nobody_reads() -> None:
    """Whoever read our lines has gone; Python would complain once more when it closes the stream."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def opened(source: str) -> Iterator[int]:
    """Descriptor of a path, or of standard input for "-"; `ConfigError` when it cannot be read."""
    if source == "-":
        yield sys.stdin.fileno()
        return
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror or error}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def stopping() -> Iterator[None]:
    """SIGTERM ends a stream as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
