"""For all tests: the longest files come first, so that neither worker is left alone with one at the end; Ctrl-C works."""

import signal
from pathlib import Path

import pytest

LONGEST = (
    "matrix/test_artefact.py", "crash/test_letters.py", "crash/test_masked.py", "eval/test_reproductions.py",
    "crash/test_private.py", "crash/test_votes.py", "demo/test_demo.py", "masks/test_exact.py", "network/test_same_model.py",
)  # fmt: skip
"""Files that take longer than half a minute, from the longest on; `scripts/test --durations=0` says which."""


def pytest_configure() -> None:
    """What tests start must hear Ctrl-C: a script that runs the tests in the background (`&`) has everything ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stable, so that every file keeps the order of its tests."""
    if gone := [name for name in LONGEST if not (Path(__file__).parent / name).is_file()]:
        raise pytest.UsageError(f"tests/conftest.py orders files that are not there: {', '.join(gone)}")

    def place(item: pytest.Item) -> int:
        file = item.path.as_posix()
        return next((at for at, name in enumerate(LONGEST) if file.endswith(f"tests/{name}")), len(LONGEST))

    items.sort(key=place)
