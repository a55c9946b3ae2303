"""Tables about people: Adult (census income) and the heart patients of four hospitals."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgehold.client.data.columns import CsvTable, codes, matrix, vocabulary
from edgehold.client.data.dataset import Dataset, Split
from edgehold.client.data.files import Known, Version, combined, read, require, sources
from edgehold.client.data.names import ADULT_COLUMNS, ADULT_NUMBERS, HEART_CATEGORIES, HEART_COLUMNS, one_of
from edgehold.core.errors import ConfigError

_ADULT_HOME = "https://archive.ics.uci.edu/dataset/2/adult (adult.data and adult.test)"
_ADULT = (
    Known(
        ("adult.data",),
        (Version("UCI, 1996", "sha256:5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"),),
        _ADULT_HOME,
    ),
    Known(
        ("adult.test",),
        (Version("UCI, 1996", "sha256:a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05"),),
        _ADULT_HOME,
    ),
)
_HEART = {
    "cleveland": "sha256:a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    "hungarian": "sha256:d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    "switzerland": "sha256:834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
    "va": "sha256:e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
}


def adult(path: str | Path, *, seed: int = 0, verify: bool = True, group: str = "occupation") -> Split:
    """32,561 + 16,281 people: 6 numbers, 102 columns of 0 and 1 ("?" is a value of its own); y: 1 for more than 50K.

    group: "occupation" or "native-country", the natural clients. The split is the official one.
    """
    one_of("group", group, ("occupation", "native-country"))
    contents = [read(require(path, known), known, verify) for known in _ADULT]
    tables = []
    for content in contents:
        first, _, rest = content.data.partition(b"\n")
        data = rest if first.startswith(b"|") else content.data
        tables.append(CsvTable(data, str(content.path), ADULT_COLUMNS))
    texts = {n: vocabulary(tables[0], n) for n in ADULT_COLUMNS[:-1] if n not in ADULT_NUMBERS}
    names = tuple(sorted({name for table in tables for name in vocabulary(table, group)}))
    halves = []
    for table, content in zip(tables, contents, strict=True):
        x, features = matrix(table, ADULT_NUMBERS, texts)
        y = codes(table, "income", ("<=50K", ">50K", "<=50K.", ">50K.")) % 2
        groups = codes(table, group, names)
        found, digest = sources([content]), combined([content])
        halves.append(Dataset("adult", x, y, features, ("<=50K", ">50K"), found, digest, groups, names))
    return Split(*halves)


def heart_disease(
    path: str | Path,
    *,
    seed: int = 0,
    verify: bool = True,
    target: str = "binary",
    hospitals: Sequence[str] = tuple(_HEART),
    test_share: float = 0.2,
) -> Split:
    """920 patients, groups: hospital. y: 1 for disease (label above 0), or with target "severity" the label 0..4.

    Features: nine numbers, 13 columns of 0 and 1 for cp, restecg, slope and thal, and a column of 0 and 1 for each number
    that is missing somewhere; the number itself is then the training mean. An unknown category is all zeros. Cholesterol
    and blood pressure of 0 count as missing: one hospital writes 0 for every patient.
    """
    one_of("target", target, ("binary", "severity"))
    hospitals = tuple(dict.fromkeys(hospitals))
    contents = []
    for hospital in hospitals:
        known = _heart_file(one_of("hospitals", hospital, _HEART))
        if Path(path).is_file():
            raise ConfigError(f"{path}: is a file; expected the folder with {known.names[0]}", field="path")
        contents.append(read(require(path, known), known, verify))
    if not contents:
        raise ConfigError("hospitals = []; expected at least one", field="hospitals")
    tables = [CsvTable(content.data, str(content.path), HEART_COLUMNS) for content in contents]
    columns = {name: np.concatenate([t.numbers(name, ("?",)) for t in tables]) for name in HEART_COLUMNS[:-1]}
    for name in ("trestbps", "chol"):
        columns[name][columns[name] == 0] = np.nan
    parts = [columns[name][:, None] for name in columns if name not in HEART_CATEGORIES]
    features = [name for name in columns if name not in HEART_CATEGORIES]
    for name, values in HEART_CATEGORIES.items():
        parts.append((columns[name][:, None] == np.array(values)).astype(float))
        features += [f"{name}={value}" for value in values]
    severity = np.concatenate([codes(table, "num", ("0", "1", "2", "3", "4")) for table in tables])
    y = severity if target == "severity" else (severity > 0).astype(np.int64)
    classes = ("0", "1", "2", "3", "4") if target == "severity" else ("healthy", "disease")
    groups = np.repeat(np.arange(len(tables)), [table.rows for table in tables])
    x = np.hstack(parts).astype(np.float32)
    found, digest = sources(contents), combined(contents)
    whole = Dataset("heart-disease", x, y, tuple(features), classes, found, digest, groups, hospitals)
    return Split.of(whole, test_share, seed).filled()


def _heart_file(hospital: str) -> Known:
    name = f"processed.{hospital}.data"
    home = f"https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/{name}"
    return Known((name,), (Version("UCI 45", _HEART[hospital]),), home)
