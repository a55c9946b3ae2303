"""Network intrusion tables: UNSW-NB15, NSL-KDD, the IoTID20 and CICIDS2017 samples, TON_IoT network flows.

Numbers first, then one column of 0 and 1 per value of each text column; a value the training part never shows is all zeros.
Addresses, times of day and row numbers are left out, or a model learns who instead of what.
"""

from pathlib import Path

import numpy as np

from edgehold.client.data.columns import CsvTable, codes, matrix, vocabulary
from edgehold.client.data.dataset import Array, Dataset, Split
from edgehold.client.data.files import Content, Known, Version, combined, locate, read, require, sources
from edgehold.client.data.names import (
    KDD_FEATURES,
    KDD_GROUP_OF,
    KDD_GROUPS,
    KDD_MISSING_IN_36,
    TON_NUMBERS,
    TON_TEXTS,
    TON_TYPES,
    UNSW_CLASSES,
    one_of,
)

_UNSW = Known(
    ("UNSW_NB15_82332.csv", "UNSW_NB15_training-set.csv", "UNSW_NB15_testing-set.csv"),
    (
        Version("82,332 rows", "sha256:734fe6642edf758f7c94d7d9149426b49d202fe8e7bf0bef47392489c3c0a559"),
        Version("175,341 rows", "md5:e55caabaa6cd4a8f1c06a227bcfababc"),
    ),
    'https://research.unsw.edu.au/projects/unsw-nb15-dataset, folder "Training and Testing Sets"',
)
_KDD_HOME = "https://www.unb.ca/cic/datasets/nsl.html"
_KDD_20 = Known(
    ("KDDTrain+_20Percent.txt",),
    (Version("25,192 rows", "sha256:7ea86479faab5ca2190b7f18b4982fb058ce5bf2b46e0e1017d0d9ef90f9c16e"),),
    _KDD_HOME,
)
_KDD_FULL = Known(("KDDTrain+.txt",), (Version("125,973 rows", "git:20002897492adc110190a10509aa694f26f7f308"),), _KDD_HOME)
_KDD_36 = Known(
    ("KDDTrain+_36features.csv",),
    (Version("125,973 rows, 36 features", "sha256:d419ce5ea7877572a9e151112b71780a396c9c71b3343c2caa289f93e4fd2b9f"),),
    _KDD_HOME + " (derived from KDDTrain+.txt by leaving out five columns)",
)
_KDD_TEST = Known(
    ("KDDTest+.txt",),
    (Version("22,544 rows", "sha256:fa46b0935342616aa83b7c2578db355b6a7aaabbc492248172c7a1e8b7ab8f84"),),
    _KDD_HOME,
)
_KDD_TEST_21 = Known(
    ("KDDTest-21.txt",),
    (Version("11,850 rows", "sha256:746993ac9e25868827cacf09eab450050a2a1056e1ce48a1ad39f5dc801d531d"),),
    _KDD_HOME,
)
_SAMPLES_HOME = "repository Western-OC2-Lab/PWPAE-Concept-Drift-Detection-and-Adaptation, folder data"
_IOTID20 = Known(
    ("IoTID20_sample_6252.csv", "IoT_2020_b_0.01_fs.csv"),
    (Version("6,252 rows", "sha256:b9296c323fc8b1aa23c42999fa24d020593cd4d5a8c81849f63ab3de20d55d06"),),
    _SAMPLES_HOME,
)
_CICIDS = Known(
    ("CICIDS2017_sample_28303.csv", "cic_0.01km.csv"),
    (Version("28,303 rows", "sha256:336384a99f8402e3cc9170206ad0ff2f78fdeabe430d7f96455b594ad19a0d95"),),
    _SAMPLES_HOME,
)
_TON = Known(("Train_Test_Network.csv", "train_test_network.csv"), (), "https://research.unsw.edu.au/projects/toniot-datasets")
_IDENTITY = ("Flow_ID", "Src_IP", "Dst_IP", "Timestamp")
_TWO: tuple[str, ...] = ("normal", "attack")


def unsw_nb15(
    path: str | Path,
    *,
    seed: int = 0,
    verify: bool = True,
    target: str = "binary",
    test_share: float = 0.2,
    texts: bool = True,
) -> Split:
    """42 features (three of them text, left out unless `texts`), y binary or one of ten classes.

    Mirrors swap the names of the two files, so they are told apart by content: with both in the folder the split is the
    benchmark's (175,341 to train on, 82,332 to test on), with one `test_share` of it is held out.
    """
    one_of("target", target, ("binary", "classes"))
    places = [Path(path)] if Path(path).is_file() else _all_named(path, _UNSW)
    contents = {c.digest: c for c in (read(place, _UNSW, verify) for place in places)}
    parts = sorted(contents.values(), key=lambda c: -len(c.data))
    tables = [CsvTable(content.data, str(content.path)) for content in parts[:2]]
    kinds = {name: vocabulary(tables[0], name) if texts else () for name in ("proto", "service", "state")}
    halves = [_unsw(table, kinds, content, target) for table, content in zip(tables, parts, strict=False)]
    return Split(*halves) if len(halves) == 2 else Split.of(halves[0], test_share, seed)


def nsl_kdd(
    path: str | Path,
    *,
    seed: int = 0,
    verify: bool = True,
    target: str = "binary",
    train: str = "20percent",
    test: str = "full",
    texts: bool = True,
) -> Split:
    """41 features (three of them text, left out unless `texts`), y binary, one of five groups, or one of 40 names (39 attacks
    and normal).

    train: "20percent" (25,192 records), "full" (125,973), or "36features" (125,973, made without five columns, which are
    then left out of the test part too). test: "full" (22,544) or "21" (11,850, the hard ones). The test part has attacks
    the training part never shows.
    """
    one_of("target", target, ("binary", "groups", "attacks"))
    files = {"20percent": _KDD_20, "full": _KDD_FULL, "36features": _KDD_36}
    known = [
        files[one_of("train", train, files)],
        {"full": _KDD_TEST, "21": _KDD_TEST_21}[one_of("test", test, ("full", "21"))],
    ]
    left_out = KDD_MISSING_IN_36 if train == "36features" else ()
    contents = [read(require(path, file), file, verify) for file in known]
    header = (*KDD_FEATURES, "class", "difficulty")
    tables = [
        CsvTable(content.data, str(content.path), None if file is _KDD_36 else header)
        for content, file in zip(contents, known, strict=True)
    ]
    text_columns = ("protocol_type", "service", "flag")
    numbers = [name for name in KDD_FEATURES if name not in text_columns and name not in left_out]
    kinds = {name: vocabulary(tables[0], name) for name in text_columns} if texts else {}
    halves = []
    for table, content in zip(tables, contents, strict=True):
        x, names = matrix(table, numbers, kinds)
        attacks = codes(table, "class", tuple(KDD_GROUP_OF))
        y, classes = _kdd_labels(attacks, target)
        halves.append(Dataset("nsl-kdd", x, y, names, classes, sources([content]), combined([content])))
    return Split(*halves)


def iot_ids(
    path: str | Path,
    *,
    seed: int = 0,
    verify: bool = True,
    sample: str = "IoTID20",
    test_share: float = 0.2,
    split: str = "random",
) -> Split:
    """IoTID20: 27 numbers (31 less flow id, addresses and time); CICIDS2017: 19 numbers. y: 0 normal, 1 attack.

    split: "random", or "time" for the last records of the drifting stream.
    """
    known = {"IoTID20": _IOTID20, "CICIDS2017": _CICIDS}[one_of("sample", sample, ("IoTID20", "CICIDS2017"))]
    content = read(require(path, known), known, verify)
    table = CsvTable(content.data, str(content.path))
    y = codes(table, "Labelb", ("0", "1"))
    x, names = matrix(table, [name for name in table.names if name not in (*_IDENTITY, "Labelb")], {})
    whole = Dataset(sample.lower(), x, y, names, _TWO, sources([content]), combined([content]))
    return Split.of(whole, test_share, seed, split)


def ton_iot(
    path: str | Path,
    *,
    seed: int = 0,
    verify: bool = True,
    target: str = "binary",
    test_share: float = 0.2,
    categories: dict[str, list[str]] | None = None,
) -> Split:
    """TON_IoT network flows: numbers and text columns of `names.TON_*`, "-" for none; y binary or one of ten types.

    No checksum is published, so the digest always says "unverified". Addresses, ports, times and free text are left out.
    categories: values of text columns, where they must be the same for several files; otherwise those in the file.
    """
    one_of("target", target, ("binary", "types"))
    content = read(require(path, _TON), _TON, verify=False)
    table = CsvTable(content.data, str(content.path))
    wanted = categories or {}
    texts = {name: tuple(wanted.get(name) or vocabulary(table, name)) for name in TON_TEXTS}
    x, names = matrix(table, TON_NUMBERS, texts, missing=("-",), strict=wanted)
    classes = _TWO if target == "binary" else TON_TYPES
    y = codes(table, "label", ("0", "1")) if target == "binary" else codes(table, "type", TON_TYPES)
    whole = Dataset("ton-iot", np.nan_to_num(x), y, names, classes, sources([content]), combined([content]))
    return Split.of(whole, test_share, seed)


def _unsw(table: CsvTable, kinds: dict[str, tuple[str, ...]], content: Content, target: str) -> Dataset:
    aside = {"id", "attack_cat", "label", *kinds}
    x, names = matrix(table, [name for name in table.names if name not in aside], {k: v for k, v in kinds.items() if v})
    classes = _TWO if target == "binary" else UNSW_CLASSES
    y = codes(table, "label", ("0", "1")) if target == "binary" else codes(table, "attack_cat", UNSW_CLASSES)
    return Dataset("unsw-nb15", x, y, names, classes, sources([content]), combined([content]))


def _all_named(path: str | Path, known: Known) -> list[Path]:
    single = (Known((name,), known.versions, known.origin) for name in known.names)
    found = [place for one in single if (place := locate(path, one)) is not None]
    return found or [require(path, known)]


def _kdd_labels(attacks: Array, target: str) -> tuple[Array, tuple[str, ...]]:
    names = tuple(KDD_GROUP_OF)
    if target == "attacks":
        return attacks, names
    groups = np.array([KDD_GROUPS.index(KDD_GROUP_OF[name]) for name in names])[attacks]
    return (groups, KDD_GROUPS) if target == "groups" else ((groups > 0).astype(np.int64), _TWO)
