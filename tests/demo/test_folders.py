"""Where the demo works: only in what is its own."""

from pathlib import Path

import pytest

from edgehold.attacks.demo.folders import Folders
from edgehold.attacks.demo.outcome import Failed


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "federation").mkdir()
    (tmp_path / "federation" / "thesis.txt").touch()
    with pytest.raises(Failed, match="choose another folder"):
        Folders(tmp_path)
    assert (tmp_path / "federation" / "thesis.txt").exists()


def test_what_an_earlier_demo_left_is_replaced(tmp_path: Path) -> None:
    (Folders(tmp_path / "ours").work / "left").touch()
    assert not (Folders(tmp_path / "ours").work / "left").exists()


def test_logs_stay_when_the_homes_go(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    homes, results = folders.of_seed(3, many=True)
    assert results == tmp_path / "seed-3"
    homes.mkdir()
    (homes / "server.log").write_text("ready")
    (homes / "server.key").touch()
    folders.keep_logs(homes, results)
    folders.drop_homes()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["seed-3/logs/server.log"]
    assert folders.of_seed(3, many=False)[1] == tmp_path
