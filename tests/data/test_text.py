"""Plays and reviews on tiny files."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from edgehold.client.data import text
from edgehold.core.errors import ConfigError


def test_shakespeare_windows_by_speaker(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("Ann:\nabcdefg\n\nBob:\nhi\n\nAnn:\nhijkl\n")
    split = text.shakespeare(tmp_path, verify=False, length=3, min_characters=5, test_share=0.3)
    # Ann says "abcdefg\nhijkl": 13 characters, 4 windows of 3 with a next character each; the last is for testing.
    assert split.train.group_names == ("Ann",)
    spell = "".join(split.train.classes)
    read = [["".join(spell[c] for c in row) for row in part] for part in (split.train.raw, split.train.y, split.test.raw)]
    assert read == [["abc", "def", "g\nh"], ["bcd", "efg", "\nhi"], ["ijk"]]
    assert split.train.raw.dtype == split.train.y.dtype == np.int64
    with pytest.raises(ConfigError, match="no speaker says enough"):
        text.shakespeare(tmp_path, verify=False)
    (tmp_path / "input.txt").write_text("Ann:\nabc\n\nno speaker here\n")
    with pytest.raises(ConfigError, match="speech 2 does not open with a speaker"):
        text.shakespeare(tmp_path, verify=False)


def test_hashed_words_by_hand() -> None:
    raw = text.hashed_words(["Don't <br />STOP, 3 stop!", "", "a b c d"], 3, 100)
    place = {word: 1 + zlib.crc32(word.encode()) % 99 for word in ("don't", "stop", "a", "b", "c")}
    assert raw.tolist() == [
        [place["don't"], place["stop"], place["stop"]],
        [0, 0, 0],
        [place["a"], place["b"], place["c"]],
    ]


def _reviews(folder: Path, *rows: object) -> None:
    for name in ("imdb_train_10000.jsonl", "imdb_test_5000.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_reviews_from_json_lines(tmp_path: Path) -> None:
    _reviews(tmp_path, {"text": "good", "label": 1}, {"text": "bad", "label": 0})
    split = text.imdb(tmp_path, verify=False, length=4)
    assert split.train.y.tolist() == [1, 0]
    assert (split.train.raw > 0).sum(axis=1).tolist() == [1, 1]
    with pytest.raises(ConfigError, match="known: subset"):
        text.imdb(tmp_path)
    for bad, message in (
        ({"text": "x", "label": 2}, "column 'label', row 2 is 2; allowed: 0, 1"),
        ({"text": 5, "label": 1}, "row 2: .*expected text and label"),
        ({"text": "x"}, "row 2: .*label"),
    ):
        _reviews(tmp_path, {"text": "good", "label": 1}, bad)
        with pytest.raises(ConfigError, match=message):
            text.imdb(tmp_path, verify=False)


def test_reviews_from_the_published_folders(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for kind in ("pos", "neg"):
            (tmp_path / part / kind).mkdir(parents=True)
            (tmp_path / part / kind / "0_9.txt").write_text(f"a {kind} film", encoding="utf-8")
    split = text.imdb(tmp_path, verify=False)
    assert split.test.y.tolist() == [0, 1]
    assert split.train.digest.startswith("unverified sha256:")
    with pytest.raises(ConfigError, match="verify = false"):
        text.imdb(tmp_path)
