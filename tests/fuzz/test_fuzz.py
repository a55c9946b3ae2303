"""A short run of the fuzzer, and proof that it would see what it looks for. The long run is `scripts/fuzz`."""

import json
import mmap
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fuzz import fuzzer
from tests.fuzz.fuzzer import Target, fuzz

from edgehold.core.errors import WrongShape

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_five_thousand_inputs(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.fuzz.fuzzer", "--inputs", "5000", "--json", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out").read_text())
    assert report["inputs"] == 5000
    for target, outcomes in report["outcomes"].items():
        if target != "assignment" and target != "error detail":
            assert outcomes.get("ok"), f"{target} never took anything: its examples are no examples"
        assert len(outcomes) > 1, f"{target} never refused anything: mutations do not reach it"


def planted(data: bytes) -> None:
    if data.startswith(b"good") and len(data) > 8:
        raise KeyError("planted")
    if not data.startswith(b"good"):
        raise WrongShape("not good")


def test_a_foreign_exception_is_found() -> None:
    report = fuzz([Target("planted", [b"goodness"], planted)], 2000, 1)
    assert any("KeyError" in failure for failure in report.failures)
    assert report.outcomes["planted"].keys() == {"ok", "wrong_shape", "KeyError"}


def test_the_same_seed_gives_the_same_inputs() -> None:
    seen: list[list[bytes]] = []
    for seed in (1, 1, 2):
        seen.append([])
        fuzz([Target("seen", [b"goodness", b"badness"], seen[-1].append)], 200, seed)
    assert seen[0] == seen[1] != seen[2]


def test_a_leak_and_a_slow_decoder_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[mmap.mmap] = []

    def leak(data: bytes) -> None:
        # Fresh pages: memory that earlier tests gave back would be taken again without growth.
        kept.append(mmap.mmap(-1, 1 << 20))
        kept[-1].write(b"x" * (1 << 20))

    monkeypatch.setattr(fuzzer, "GROWTH_LIMIT", 8 << 20)
    monkeypatch.setattr(fuzzer, "SLOW_S", 0.0)
    report = fuzz([Target("leaky", [b"x"], leak)], 40, 0)
    assert any(failure.startswith("memory grew") for failure in report.failures)
    assert any(failure.startswith("leaky: 0.") for failure in report.failures)


def test_a_decoder_that_hangs_is_called_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(data: bytes) -> None:
        while data != b"x":
            pass

    monkeypatch.setattr(fuzzer, "HUNG_S", 1)
    report = fuzz([Target("hanging", [b"x"], hang)], 1, 0)
    assert any("Hung" in failure for failure in report.failures)
