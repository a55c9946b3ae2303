"""Where the real files are."""

from pathlib import Path

import pytest
from tests.support import real_data


@pytest.fixture
def real() -> Path:
    """Folder with fashion-mnist in it; skips where there is none."""
    return real_data.folder("fashion-mnist").parent


@pytest.fixture
def flows() -> Path:
    """Folder with nsl-kdd in it, found in the same way."""
    return real_data.folder("nsl-kdd").parent
