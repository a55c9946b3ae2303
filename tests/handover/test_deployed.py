"""A device's folder of models: only what passes gets in force, whatever fails leaves the former one, and going back works."""

import os
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support import handed
from tests.support.handed import Parties

from edgehold.client import deployed
from edgehold.client.deployed import Deployed, Rolling
from edgehold.client.detect import HandedOver
from edgehold.core import keys
from edgehold.core.errors import (
    BadSignature,
    ConfigError,
    Downgrade,
    FlError,
    IdentityError,
    JournalError,
    ModelRefused,
    SelfCheckFailed,
)


@pytest.fixture
def parties() -> Parties:
    return Parties()


@pytest.fixture
def place(tmp_path: Path, parties: Parties) -> Deployed:
    """Round 3 with factor 2 is in force."""
    handed.bundle(tmp_path / "first", parties.server)
    found = Deployed(tmp_path / "home" / "deployed", "toy", parties.credentials)
    found.deploy(tmp_path / "first")
    return found


def factor(place: Deployed) -> float:
    """Of the model in force."""
    return float(place.current().graph(np.array([[1.0, 0.0]]))[0, 0])


def test_update_and_rollback(tmp_path: Path, parties: Parties, place: Deployed) -> None:
    handed.bundle(tmp_path / "second", parties.server, factor=5.0, round=4)
    assert place.deploy(tmp_path / "second").manifest.round == 4
    assert factor(place) == 5.0
    now = place.in_force()
    assert now is not None
    assert {now.current, now.previous} == {path.name for path in place.folder.iterdir() if path.is_dir()}
    assert place.rollback().manifest.round == 3
    assert factor(place) == 2.0
    assert place.rollback().manifest.round == 4, "used twice, it comes back"
    assert factor(place) == 5.0
    assert deployed.tasks(place.folder.parent) == ["toy"]


def test_only_two_models_are_kept(tmp_path: Path, parties: Parties, place: Deployed) -> None:
    for number in (4, 5, 6):
        handed.bundle(tmp_path / f"round-{number}", parties.server, factor=float(number), round=number)
        place.deploy(tmp_path / f"round-{number}")
    assert sum(path.is_dir() for path in place.folder.iterdir()) == 2
    assert place.rollback().manifest.round == 5


REFUSED: list[tuple[dict[str, object], type[FlError], str]] = [
    ({"key": "stranger"}, BadSignature, "is not signed by"),
    ({"federation": "elsewhere"}, IdentityError, "federation 'elsewhere'"),
    ({"round": 2}, Downgrade, "run r round 2"),
    ({"run": "old", "run_created_s": 999.0, "round": 90}, Downgrade, "run old round 90"),
    ({"off": 0.5, "round": 4}, SelfCheckFailed, "off by 0.5"),
    ({"task": "another", "round": 4}, ModelRefused, "a model of task 'another'"),
]


@pytest.mark.parametrize(("change", "error", "what"), REFUSED)
def test_what_is_refused_leaves_the_former_in_force(
    tmp_path: Path, parties: Parties, place: Deployed, change: dict[str, object], error: type[FlError], what: str
) -> None:
    said = dict(change)
    key = Ed25519PrivateKey.generate() if said.pop("key", None) else parties.server
    handed.bundle(tmp_path / "wrong", key, factor=7.0, **said)  # type: ignore[arg-type]
    before, files = place.in_force(), sorted(place.folder.rglob("*"))
    with pytest.raises(error, match=what):
        place.deploy(tmp_path / "wrong")
    assert place.in_force() == before
    assert sorted(place.folder.rglob("*")) == files, "nothing of it stays"
    assert factor(place) == 2.0


def test_an_older_model_needs_the_owners_word(tmp_path: Path, parties: Parties, place: Deployed) -> None:
    """Going back does not forget how far one was: a model in between that somebody kept is still refused."""
    handed.bundle(tmp_path / "ninth", parties.server, factor=9.0, round=9)
    place.deploy(tmp_path / "ninth")
    place.rollback()
    handed.bundle(tmp_path / "fifth", parties.server, factor=5.0, round=5)
    with pytest.raises(Downgrade, match="round 9"):
        place.deploy(tmp_path / "fifth")
    place.deploy(tmp_path / "fifth", allow_older=True)
    assert factor(place) == 5.0
    handed.bundle(tmp_path / "seventh", parties.server, factor=7.0, round=7)
    place.deploy(tmp_path / "seventh")
    assert factor(place) == 7.0, "from there on everything newer than the older one is new"
    handed.bundle(tmp_path / "later", parties.server, factor=6.0, run="next", run_created_s=1001.0, round=1)
    place.deploy(tmp_path / "later")
    assert factor(place) == 6.0, "round 1 of a later run is newer than any round of an earlier one"


def test_the_same_model_again_changes_nothing(tmp_path: Path, place: Deployed) -> None:
    before = place.in_force()
    place.deploy(tmp_path / "first")
    assert place.in_force() == before


def test_a_model_changed_on_the_disk_does_not_run(place: Deployed) -> None:
    now = place.in_force()
    assert now is not None
    path = place.folder / now.current / "model.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelRefused, match="get it again"):
        place.current()


def test_nothing_to_run_or_to_go_back_to(tmp_path: Path, parties: Parties, place: Deployed) -> None:
    with pytest.raises(ConfigError, match="no previous model"):
        place.rollback()
    empty = Deployed(tmp_path / "home" / "deployed", "other", parties.credentials)
    with pytest.raises(ConfigError, match="fl-client deploy FOLDER --task other"):
        empty.current()
    (place.folder / "in-force.json").write_bytes(b"{")
    with pytest.raises(JournalError, match="damaged"):
        place.current()


def test_a_rollback_to_a_damaged_model_is_refused(tmp_path: Path, parties: Parties, place: Deployed) -> None:
    handed.bundle(tmp_path / "second", parties.server, factor=5.0, round=4)
    place.deploy(tmp_path / "second")
    now = place.in_force()
    assert now is not None
    (place.folder / now.previous / "manifest.sig").unlink()
    with pytest.raises(ModelRefused):
        place.rollback()
    assert place.in_force() == now
    assert factor(place) == 5.0


@pytest.mark.parametrize("step", ["place", "sync", "switch"])
def test_a_device_that_dies_while_deploying_runs_the_former(
    tmp_path: Path, parties: Parties, place: Deployed, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies in a child process, without any clean-up, right before each of the steps that change the disk."""
    handed.bundle(tmp_path / "second", parties.server, factor=5.0, round=4)
    child = os.fork()
    if not child:
        dies = {"place": ("edgehold.core.handover.place"), "sync": "edgehold.core.handover.sync_folder",
                "switch": "edgehold.core.keys.write_file"}[step]  # fmt: skip
        monkeypatch.setattr(dies, lambda *ignored: os._exit(9))
        place.deploy(tmp_path / "second")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert factor(place) == 2.0
    place.deploy(tmp_path / "second")
    assert factor(place) == 5.0
    assert not [path for path in place.folder.iterdir() if path.name.endswith(".part")]


def test_a_running_detector_takes_over_what_fits_it(
    tmp_path: Path, parties: Parties, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns stand as the stream was opened with: a model of others waits for the next start."""
    place = Deployed(tmp_path / "deployed", "toy", parties.credentials)

    def deploy(number: int, threshold: float, columns: tuple[str, ...] = ("a", "b")) -> None:
        handed.bundle(
            tmp_path / f"{number}", parties.server, graph=handed.scored(number), kind="detector", threshold=threshold,
            columns=columns, round=number, classes=(),
        )  # fmt: skip
        place.deploy(tmp_path / f"{number}")

    deploy(1, threshold=4.0)
    scorer = HandedOver(Rolling(place))
    records = np.array([[1.0, 2.0], [2.0, 3.0]])
    assert (scorer.scores(records).tolist(), scorer.threshold, scorer.count) == ([3.0, 5.0], 4.0, 2)
    scorer.check(("a", "b"), "test")
    with pytest.raises(ModelRefused, match="'b' at place 1, expected 'a'"):
        scorer.check(("b", "a"), "test")
    with pytest.raises(ModelRefused, match="1 of them, expected 2"):
        scorer.check(("a",), "test")
    deploy(2, threshold=7.0)
    assert (scorer.scores(records).tolist(), scorer.threshold) == ([6.0, 10.0], 7.0)
    deploy(3, threshold=9.0, columns=("b", "a"))
    assert (scorer.scores(records).tolist(), scorer.threshold) == ([6.0, 10.0], 7.0)
    assert "not taken over: it has other columns" in capsys.readouterr().err
    assert HandedOver(Rolling(place), own=1.5).threshold == 1.5
    assert HandedOver(Rolling(place)).scores(records).tolist() == [9.0, 15.0], "after a start"
    handed.bundle(tmp_path / "no-detector", parties.server, round=4)
    place.deploy(tmp_path / "no-detector")
    with pytest.raises(ConfigError, match="detects nothing; run it with `fl-client infer`"):
        HandedOver(Rolling(place))


def test_a_running_stream_takes_over_what_is_deployed(tmp_path: Path, parties: Parties, place: Deployed) -> None:
    rolling = Rolling(place)
    first = rolling.model.bundle.digest
    assert not rolling.fresh()
    handed.bundle(tmp_path / "second", parties.server, factor=5.0, round=4)
    place.deploy(tmp_path / "second")
    assert rolling.fresh()
    assert rolling.model.graph(np.array([[1.0, 0.0]]))[0, 0] == 5.0
    assert not rolling.fresh(), "once"
    place.rollback()
    assert rolling.fresh()
    assert rolling.model.bundle.digest == first
    # A pointer to what cannot be opened: the model that runs goes on.
    now = place.in_force()
    assert now is not None
    keys.write_file(place.folder / "in-force.json", b'{"current":"gone","previous":"","newest":[0,1],"since_s":0}', 0o644)
    assert not rolling.fresh()
    assert "gone" in rolling.problem
    assert rolling.model.bundle.digest == first
