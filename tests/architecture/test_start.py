"""What a daemon does not load before it is asked for: each of these would make every start slower."""

import subprocess
import sys

import pytest

LATER = {
    "server": ("torch", "scipy", "numpy.random", "importlib.metadata", "edgehold.defenses.baselines.rules"),
    "client": ("torch", "scipy", "numpy.random", "importlib.metadata", "edgehold.client.masking", "edgehold.core.masks.client"),
}


@pytest.mark.parametrize("room", LATER)
def test_a_daemon_starts_without_what_only_some_rounds_need(room: str) -> None:
    loaded = f"import sys, edgehold.{room}.app, edgehold.{room}.config, edgehold.{room}.daemon; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert f"edgehold.{room}.daemon" in done.stdout.split()
    assert not set(LATER[room]) & set(done.stdout.split())
