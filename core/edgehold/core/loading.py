"""How a daemon loads what it needs: without the interpreter looking through half-loaded modules for garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def for_good() -> Iterator[None]:
    """Import inside what stays until the process ends: neither now nor later is it looked through for garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
