"""Where the real files are, and small stand-ins in the same formats."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support import real_data


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Folder of a real data set by name; skips where it is absent."""
    return real_data.folder


@pytest.fixture
def idx() -> Callable[[NDArray[np.uint8]], bytes]:
    """An array as the bytes of an IDX file."""

    def write(values: NDArray[np.uint8]) -> bytes:
        head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
        return head + values.tobytes()

    return write
