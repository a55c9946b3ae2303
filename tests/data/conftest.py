"""Where the real files are, and small stand-ins in the same formats."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Folder of a real data set below EDGEHOLD_TEST_DATA (default ../shared/data); skips where it is absent."""

    def folder(name: str) -> Path:
        place = Path(os.environ.get("EDGEHOLD_TEST_DATA") or ROOT / ".." / "shared" / "data") / name
        if not place.is_dir():
            pytest.skip(f"no {name} below EDGEHOLD_TEST_DATA; docs/data.md says where a person gets it")
        return place

    return folder


@pytest.fixture
def idx() -> Callable[[NDArray[np.uint8]], bytes]:
    """An array as the bytes of an IDX file."""

    def write(values: NDArray[np.uint8]) -> bytes:
        head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
        return head + values.tobytes()

    return write
