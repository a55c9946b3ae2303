"""Where the real data sets are: below EDGEHOLD_TEST_DATA (default ../shared/data), a folder each."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("EDGEHOLD_TEST_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data").resolve()


def folder(name: str) -> Path:
    """That of one data set; the test is skipped where it is absent."""
    place = DATA / name
    if not place.is_dir():
        pytest.skip(f"no {name} below EDGEHOLD_TEST_DATA; docs/data.md says where a person gets it")
    return place
