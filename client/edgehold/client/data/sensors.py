"""Series from sensors: WISDM phone features, smartwatch exercises, Beijing air quality."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgehold.client.data.columns import CsvTable, codes, vocabulary
from edgehold.client.data.dataset import Array, Dataset, FloatArray, Split
from edgehold.client.data.files import Content, Known, Version, check, combined, read, require, sources, unpack
from edgehold.client.data.names import (
    BEIJING_NUMBERS,
    BEIJING_STATIONS,
    WATCH_CHANNELS,
    WATCH_CLASSES,
    WINDS,
    WISDM_CLASSES,
    one_of,
)
from edgehold.core.errors import ConfigError

_WISDM = Known(
    ("WISDM_ar_v1.1_transformed.arff",),
    (Version("v1.1", "sha256:be06ab4a1f053791a44462a6cd250ffd04908f0ed5a688646403547c7032b886"),),
    "https://www.cis.fordham.edu/wisdm/dataset.php (WISDM_ar_latest.tar.gz)",
)
_WATCH = Known(
    ("smartwatch_shoulder.npz",),
    (Version("140 series", "sha256:8492d4de9873c295cee2d6b64c8a758aa209aa41a1ae37bfb0483728283e5ba7"),),
    "seglearn.datasets.load_watch(), saved as docs/data.md says",
)
_AIR_HOME = "https://archive.ics.uci.edu/dataset/501/beijing+multi+site+air+quality+data"
_AIR = dict(
    zip(
        BEIJING_STATIONS,
        (
            "a94fbcfc71708b6ffdc033360163d91efb7f675e496f6b5860929aa96b96351b",
            "a2e21402a6d95fb7043f87959e6e3dcbecb957aac356a6f8028a85b047c772e7",
            "3d8dff81f18a80d9f455876a785642bffe1e9b9924ec1e6b7ce8cca790432eeb",
            "9c0020214425e5ee2a64d42f97a1f632e1d8f6b53ad50edd85a686cc7999f27e",
            "59390fee3b032597b387491f5230e7edb90a8558e30217ebd6d9befbe669fbf9",
            "10ae48801ea55869fee56a48b885fb1127859c130551888d71673f34216ba951",
            "812dcbe848b3ba2c2d25731064797bff803c46eb0c602156a1fa044df136dc26",
            "572cf87b65ef543cd55d3a711b28474def224a46b0ec3fc8add8aaf13b67a487",
            "520b59e4ead3b0cfe7f1ed673e30275de8441e999db6f413d5172d2277b8c15a",
            "0743e34799cf1ee36195b73321b91baa5625276532e7263c588f68cdef3b4daa",
            "0b1a6d754a07f0def2f55434ddfa3870dcd0063b7f766a6f66b6c11bb05a377a",
            "ab1d6a356d6997a45f6d657ad47de1e05a4a08d4a7015b38a329a90665ab74d0",
        ),
        strict=True,
    )
)


def wisdm(path: str | Path, *, seed: int = 0, verify: bool = True, test_share: float = 0.2, split: str = "records") -> Split:
    """5,418 windows of ten seconds, 43 numbers and one column of 0 and 1 per number missing somewhere; groups: 36 users.

    y: one of six activities. split: "records" at random, or "users": whole users are held out.
    """
    one_of("split", split, ("records", "users"))
    content = read(require(path, _WISDM), _WISDM, verify)
    table = _arff(content)
    names = [name for name in table.names if name not in ("UNIQUE_ID", "user", "activity")]
    x = np.column_stack([table.numbers(name, ("?",)) for name in names]).astype(np.float32)
    group_names = vocabulary(table, "user")
    users = codes(table, "user", group_names)
    found, digest = sources([content]), combined([content])
    y = codes(table, "activity", WISDM_CLASSES)
    whole = Dataset("wisdm", x, y, tuple(names), WISDM_CLASSES, found, digest, users, group_names)
    return Split.of(whole, test_share, seed, units=users if split == "users" else None).filled()


def smartwatch(
    path: str | Path,
    *,
    seed: int = 0,
    verify: bool = True,
    window: int = 128,
    stride: int = 64,
    split: str = "series",
    test_share: float = 0.2,
) -> Split:
    """Windows of six channels at 50 Hz: raw (n, 6, window) float32, y one of seven exercises, groups: ten subjects.

    Overlapping windows of one series never lie on both sides: `test_share` of the series is held out, or with split
    "subjects" of the subjects.
    """
    one_of("split", split, ("series", "subjects"))
    if window < 1 or stride < 1:
        raise ConfigError(f"window = {window}, stride = {stride}; both must be at least 1", field="window")
    content, parts = _watch(path, verify)
    samples, offsets = parts["X"], parts["offsets"]
    starts = [np.arange(first, last - window + 1, stride) for first, last in zip(offsets[:-1], offsets[1:], strict=True)]
    series = np.repeat(np.arange(len(starts)), [len(part) for part in starts])
    if not len(series):
        raise ConfigError(f"window = {window}: no series is that long", field="window")
    views = np.lib.stride_tricks.sliding_window_view(samples, window, axis=0)
    raw = np.ascontiguousarray(views[np.concatenate(starts)])
    names = tuple(str(subject) for subject in np.unique(parts["subject"]))
    groups = np.unique(parts["subject"], return_inverse=True)[1].astype(np.int64)[series]
    found, digest = sources([content]), combined([content])
    whole = Dataset("smartwatch", raw, parts["y"][series], (), WATCH_CLASSES, found, digest, groups, names)
    return Split.of(whole, test_share, seed, units=series if split == "series" else groups)


def beijing_air(
    path: str | Path,
    *,
    seed: int = 0,
    verify: bool = True,
    stations: Sequence[str] = BEIJING_STATIONS,
    ahead: int = 1,
    test_hours: int = 8760,
) -> Split:
    """Predict PM2.5 (float32, micrograms per cubic metre) `ahead` hours later; groups: station.

    Features of one hour: 11 measured values, wind direction, hour and month as sine and cosine. A value that is NA is
    carried forward from the last hour that has one (at the start: the station's first); hours whose target is NA are left
    out. Test part: the last `test_hours` of the four years of every station. RAIN and WSPM are as measured.
    """
    if ahead < 1 or test_hours < 1:
        raise ConfigError(f"ahead = {ahead}, test_hours = {test_hours}; both must be at least 1", field="ahead")
    contents: list[Content] = []
    rows: dict[bool, list[tuple[Array, Array, Array]]] = {False: [], True: []}
    stations = tuple(dict.fromkeys(stations))
    for index, station in enumerate(stations):
        known = _air_file(one_of("stations", station, BEIJING_STATIONS))
        if Path(path).is_file():
            raise ConfigError(f"{path}: is a file; expected the folder with {known.names[0]}", field="path")
        contents.append(read(require(path, known), known, verify))
        x, target = _station(CsvTable(contents[-1].data, str(contents[-1].path)))
        if len(x) <= test_hours + ahead:
            raise ConfigError(f"{contents[-1].path}: {len(x)} hours; test_hours = {test_hours} leaves none", field="test_hours")
        x, y = x[:-ahead], target[ahead:]
        hours = np.arange(len(x))
        for late in (False, True):
            keep = np.flatnonzero(np.isfinite(y) & ((hours >= len(target) - test_hours - ahead) == late))
            rows[late].append((x[keep], y[keep].astype(np.float32), np.full(len(keep), index, np.int64)))
    if not contents:
        raise ConfigError("stations = []; expected at least one", field="stations")
    features = (*BEIJING_NUMBERS, *(f"{of} {part}" for of in ("wd", "hour", "month") for part in ("sin", "cos")))
    halves = []
    for late in (False, True):
        xs, ys, groups = (np.concatenate(part) for part in zip(*rows[late], strict=True))
        found = sources(contents)
        halves.append(Dataset("beijing-air", xs, ys, features, (), found, combined(contents), groups, stations))
    return Split(*halves)


def _station(table: CsvTable) -> tuple[FloatArray, Array]:
    """Features of every hour, and the measured PM2.5 with NaN where there is none."""
    measured = np.column_stack([table.numbers(name, ("NA",)) for name in BEIJING_NUMBERS])
    target = measured[:, 0].copy()
    wind = codes(table, "wd", (*WINDS, "NA")).astype(float)
    wind[wind == len(WINDS)] = np.nan
    values = _carried(np.column_stack([measured, wind]))
    turns = [values[:, -1] / len(WINDS), table.numbers("hour") / 24, (table.numbers("month") - 1) / 12]
    angles = [f(2 * np.pi * turn) for turn in turns for f in (np.sin, np.cos)]
    return np.column_stack([values[:, :-1], *angles]).astype(np.float32), target


def _carried(values: Array) -> Array:
    """NaN replaced by the last number above it, at the top by the first one below, in a column without any by 0."""
    at = np.where(np.isnan(values), -1, np.arange(len(values))[:, None])
    last = np.maximum.accumulate(at, axis=0)
    first = np.argmax(at >= 0, axis=0)
    filled: Array = np.take_along_axis(values, np.where(last < 0, first, last), axis=0)
    return np.nan_to_num(filled)


def _air_file(station: str) -> Known:
    name = f"PRSA_Data_{station}_20130301-20170228.csv"
    return Known((name,), (Version("UCI 501", f"sha256:{_AIR[station]}"),), _AIR_HOME)


def _arff(content: Content) -> CsvTable:
    """The rows behind @data. The published header leaves out the last attribute, the activity."""
    where = str(content.path)
    head, marker, body = content.data.replace(b"\r\n", b"\n").partition(b"@data\n")
    if not marker:
        raise ConfigError(f"{where}: no @data line; expected an ARFF file. Get it: {_WISDM.origin}")
    lines = [line.split() for line in head.decode(errors="replace").splitlines() if line.lower().startswith("@attribute")]
    names = [line[1].strip('"') for line in lines if len(line) > 1]
    fields = body.lstrip(b"\n").partition(b"\n")[0].count(b",") + 1
    if fields == len(names) + 1:
        names.append("activity")
    return CsvTable(body, where, names)


def _watch(path: str | Path, verify: bool) -> tuple[Content, dict[str, Array]]:
    """The arrays, checked by their own bytes: every way to save the same arrays gives the same digest."""
    place = require(path, _WATCH)
    try:
        with np.load(io.BytesIO(unpack(place)), allow_pickle=False) as archive:
            parts = {name: archive[name] for name in ("X", "offsets", "y", "subject")}
    except ConfigError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        raise ConfigError(f"{place}: no archive of X, offsets, y and subject: {error}. Get it: {_WATCH.origin}") from None
    x = np.asarray(parts["X"], np.float32)
    offsets, y, subject = (np.asarray(parts[name], np.int64) for name in ("offsets", "y", "subject"))
    content = check(place, b"".join(part.tobytes() for part in (x, offsets, y, subject)), _WATCH, verify)
    if x.ndim != 2 or x.shape[1] != len(WATCH_CHANNELS) or not len(y) == len(subject) == len(offsets) - 1:
        raise ConfigError(f"{place}: X {x.shape}, offsets {offsets.shape}, y {y.shape}; expected (samples, 6), (n + 1,), (n,)")
    if offsets[0] != 0 or offsets[-1] != len(x) or (np.diff(offsets) < 0).any():
        raise ConfigError(f"{place}: offsets must rise from 0 to {len(x)}")
    if not np.isfinite(x).all() or not ((y >= 0) & (y < len(WATCH_CLASSES))).all():
        raise ConfigError(f"{place}: a value that is not finite, or a label outside 0 to {len(WATCH_CLASSES) - 1}")
    return content, {"X": x, "offsets": offsets, "y": y, "subject": subject}
