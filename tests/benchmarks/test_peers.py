"""Peers: their environments, what they print, and what becomes of their failures. No network, no peer."""

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks import beside, compare, compare_rounds, frame, peers

from edgehold.client.data.synthetic import make_task
from edgehold.core.errors import ConfigError

QUIET = frame.Options(quick=True, say=lambda text: None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgehold"


def made(cache: Path, peer: peers.Peer) -> None:
    """An environment that is complete already: this interpreter under another name."""
    (peer.folder / "bin").mkdir(parents=True)
    peer.python.symlink_to(sys.executable)
    (peer.folder / "complete").touch()
    assert cache in peer.folder.parents


def test_peers_are_pinned_and_torch_is_ours() -> None:
    for peer in (peers.FLOWER, peers.FLOWER_SIMULATION, peers.BYZFL):
        assert all("==" in package for package in peer.packages)
        assert peer.packages[0].endswith(f"=={peer.version}")
    assert peers.TORCH in peers.CONSTRAINTS.read_text(encoding="utf-8").splitlines()


def test_an_environment_that_is_complete_is_not_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(cache, peers.BYZFL)
    monkeypatch.setattr(peers, "subprocess", None)  # no command can be run
    assert peers.environment(peers.BYZFL, QUIET) == cache / "byzfl-0.0.11" / "bin" / "python"


@pytest.mark.parametrize(
    ("out", "found"), [('warning\n{"seconds": 2.5}\n', {"seconds": 2.5}), ("[1]", None), ("", None), ("{half", None)]
)
def test_the_last_line_of_a_peer_is_read(out: str, found: dict[str, float] | None) -> None:
    if found is not None:
        assert peers.parsed("a peer", out) == found
        return
    with pytest.raises(ConfigError, match="a peer printed .* where a JSON object was expected"):
        peers.parsed("a peer", out)


def test_the_reason_is_the_last_error() -> None:
    assert peers.reason("Traceback\nMemoryError: too much\nleft behind: 3\n") == "MemoryError: too much"
    assert (
        peers.reason("ERROR: first\nERROR: no matching distribution\n\n[notice] new pip") == "ERROR: no matching distribution"
    )
    assert peers.reason("quiet\n") == "quiet"
    assert peers.reason("") == "no message"


def test_scripts_of_peers_are_measured_and_their_failures_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(cache, peers.BYZFL)
    monkeypatch.setattr(peers, "__file__", str(tmp_path / "peers.py"))

    def ran(text: str, limit_s: float = 20.0) -> dict[str, float]:
        (tmp_path / "script.py").write_text(text)
        return peers.measured(peers.BYZFL, "script.py", (3, "x"), QUIET, limit_s)

    assert ran("import sys, json; print(json.dumps({'n': len(sys.argv), 'first': int(sys.argv[1])}))") == {"n": 3, "first": 3}
    with pytest.raises(ConfigError, match=r"ByzFL 0.0.11: ValueError: bad \(exit code 1\)"):
        ran("raise ValueError('bad')")
    with pytest.raises(ConfigError, match="not done after 0.3 s"):
        ran("import time; time.sleep(30)", 0.3)


def test_a_peer_that_cannot_be_installed_becomes_a_row(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def failing(command: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, int("pip" in command), "", "looking\nERROR: No matching distribution\n")

    # Only where environments are made: our own side is measured in a process as always.
    monkeypatch.setattr(peers, "subprocess", SimpleNamespace(run=failing, TimeoutExpired=subprocess.TimeoutExpired))
    row = next(compare.rows(frame.Options(quick=True, only="krum, n = 20", say=lambda text: None)))
    assert row.value > 0
    assert row.peer is None
    assert row.note.endswith("ByzFL 0.0.11 is not installable: ERROR: No matching distribution")
    assert [command[2] for command in asked] == ["venv", "pip"]
    assert {"byzfl==0.0.11", "torch==2.13.0", str(peers.CONSTRAINTS)} <= set(asked[1])
    assert not (peers.BYZFL.folder / "complete").exists()


def test_a_part_that_fails_leaves_a_row_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: frame.Options) -> Iterator[frame.Row]:
        yield frame.Row("first", 1.0, "s")
        raise ConfigError("nobody | there")

    def sound(options: frame.Options) -> Iterator[frame.Row]:
        yield frame.Row("second", 2.0, "s", against="P", peer=5.0)

    monkeypatch.setattr(compare, "PARTS", {"a": compare.Part(broken), "b": compare.Part(sound)})
    first, failed, second = compare.rows(QUIET)
    assert [first.work, failed.work, second.work] == ["first", "a: failed", "second"]
    assert math.isnan(failed.value)
    assert not failed.holds
    assert failed.note == "ours: nobody / there"
    shown = frame.result([failed, second], {"cpu": "x"}, "abc")
    assert [row["value"] for row in shown["rows"]] == [None, 2.0]
    assert "| a: failed | - s |" in frame.markdown(shown)


def test_results_must_agree() -> None:
    ours = np.array([3.0, 4.0])  # norm 5
    assert beside.apart(ours, np.array([3.0, 4.04])) == pytest.approx(0.008)
    # Both moved by 1 from (3, 3), and 0.04 of 1 is too much.
    with pytest.raises(ConfigError, match="not the same work"):
        beside.apart(ours, np.array([3.0, 4.04]), np.array([3.0, 3.0]))
    with pytest.raises(ConfigError, match="not the same work"):
        beside.apart(ours, np.array([3.0, math.nan]))
    with pytest.raises(ConfigError, match="shapes"):
        beside.apart(ours, np.zeros(3))


def test_too_many_nodes_are_told_by_what_they_hold() -> None:
    idle = beside.Asked({"idle_client": float(1 << 28)})  # 100 x 256 MiB = 25 GiB
    assert "25.0 GiB" in compare_rounds.too_many(100, idle)
    assert "GiB" not in compare_rounds.too_many(100, beside.Asked(None, "not installable"))


def test_the_work_of_a_round_is_known_beforehand() -> None:
    size = compare_rounds.Size(3, 1000, 4)
    start = make_task(1000).initial(1)
    # (1 + 2 + 3) / 3 / 1024 a round, four times.
    moved = start.astype(np.float64) + 8 / 1024
    assert compare_rounds.expected_loss(size) == pytest.approx(0.5 * float(np.mean(moved**2)), rel=1e-6)
    assert compare_rounds.Size(10, 11_250_000, 6).work == "round, 10 x 45 MB"
