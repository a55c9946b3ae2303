"""Where the real files are."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def real() -> Path:
    """Folder with fashion-mnist in it: EDGEHOLD_TEST_DATA (default ../shared/data); skips where there is none."""
    place = Path(os.environ.get("EDGEHOLD_TEST_DATA") or ROOT / ".." / "shared" / "data").resolve()
    if not (place / "fashion-mnist").is_dir():
        pytest.skip("no fashion-mnist below EDGEHOLD_TEST_DATA; docs/data.md says where a person gets it")
    return place


@pytest.fixture
def flows() -> Path:
    """Folder with nsl-kdd in it, found in the same way."""
    place = Path(os.environ.get("EDGEHOLD_TEST_DATA") or ROOT / ".." / "shared" / "data").resolve()
    if not (place / "nsl-kdd").is_dir():
        pytest.skip("no nsl-kdd below EDGEHOLD_TEST_DATA; docs/data.md says where a person gets it")
    return place
