"""How many files a server may open follows from the clients it is sized for."""

import subprocess
import sys

import pytest

TRIED = """
import resource, sys
from edgehold.server import daemon
soft, hard = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
daemon._allow_files(int(sys.argv[3]))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "asked", "want"),
    [(100, 900, 400, "400 900"), (100, 900, 4000, "900 900"), (800, 900, 400, "800 900")],
    ids=["raised", "as far as it may", "never lowered"],
)
def test_the_limit_of_open_files_is_raised(soft: int, hard: int, asked: int, want: str) -> None:
    command = [sys.executable, "-c", TRIED, str(soft), str(hard), str(asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == want, done.stderr
