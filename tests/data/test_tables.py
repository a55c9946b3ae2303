"""Intrusion tables, people and sensors on tiny files in the published formats."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehold.client.data import intrusion, names, people, sensors
from edgehold.core.errors import ConfigError

UNSW_HEAD = "\ufeffid,dur,proto,service,state,sbytes,attack_cat,label\r\n"


def _unsw(rows: int, proto: str = "tcp") -> bytes:
    kinds = [("Normal", 0), ("Generic", 1), ("Worms", 1)]
    lines = (f"{n},0.5,{proto},-,FIN,{100 + n},{kinds[n % 3][0]},{kinds[n % 3][1]}\r\n" for n in range(rows))
    return (UNSW_HEAD + "".join(lines)).encode()


def test_unsw_is_told_apart_by_content_not_by_name(tmp_path: Path) -> None:
    # As on mirrors: the larger file is called the testing set.
    (tmp_path / "UNSW_NB15_testing-set.csv").write_bytes(_unsw(12))
    (tmp_path / "UNSW_NB15_training-set.csv").write_bytes(_unsw(6, "udp"))
    both = intrusion.unsw_nb15(tmp_path, verify=False)
    assert (len(both.train), len(both.test)) == (12, 6)
    assert both.train.features == ("dur", "sbytes", "proto=tcp", "service=-", "state=FIN")
    assert both.train.x[1].tolist() == [0.5, 101, 1, 1, 1]
    # udp is never seen in training: all zeros.
    assert both.test.x[0].tolist() == [0.5, 100, 0, 1, 1]
    assert both.train.y.tolist() == [0, 1, 1] * 4
    one = intrusion.unsw_nb15(tmp_path / "UNSW_NB15_testing-set.csv", verify=False, target="classes", test_share=0.25)
    assert (len(one.train), len(one.test)) == (9, 3)
    assert set(one.train.y) | set(one.test.y) == {0, 1, 9}
    with pytest.raises(ConfigError, match="82,332 rows .sha256.*175,341 rows .md5"):
        intrusion.unsw_nb15(tmp_path)
    with pytest.raises(ConfigError, match="target = 'class'; did you mean \"classes\"[?]"):
        intrusion.unsw_nb15(tmp_path, target="class")


def test_unsw_with_a_changed_cell_names_it(tmp_path: Path) -> None:
    place = tmp_path / "UNSW_NB15_82332.csv.gz"
    for old, new, message in (
        (b",0.5,tcp,-,FIN,103,", b",x,tcp,-,FIN,103,", "column 'dur', row 4 is 'x'"),
        (b",103,Normal,0", b",103,Normal,2", "column 'label', row 4 is '2'; allowed: 0, 1"),
        (b"dur,", b"time,", "column 'dur'|expected"),
    ):
        place.write_bytes(gzip.compress(_unsw(9).replace(old, new)))
        if old == b"dur,":
            assert "time" in intrusion.unsw_nb15(tmp_path, verify=False).train.features
            continue
        with pytest.raises(ConfigError, match=message):
            intrusion.unsw_nb15(tmp_path, verify=False)
    place.write_bytes(gzip.compress(_unsw(9).replace(b"proto", b"prot")))
    with pytest.raises(ConfigError, match="no column 'proto'; it has id, dur, prot"):
        intrusion.unsw_nb15(tmp_path, verify=False)


def _kdd(attack: str, service: str = "http", columns: tuple[str, ...] = names.KDD_FEATURES) -> str:
    fixed = {"protocol_type": "tcp", "service": service, "flag": "SF", "count": "7"}
    return ",".join([*(fixed.get(name, "0.25") for name in columns), attack, "20"])


def test_nsl_kdd_targets_and_the_two_shapes(tmp_path: Path) -> None:
    (tmp_path / "KDDTrain+_20Percent.txt").write_text("\n".join(map(_kdd, ["normal", "neptune", "perl"])) + "\n")
    (tmp_path / "KDDTest+.txt").write_text("\n".join([_kdd("mscan", "new"), _kdd("snmpguess"), _kdd("normal")]))
    binary = intrusion.nsl_kdd(tmp_path, verify=False)
    assert binary.train.y.tolist() == [0, 1, 1]
    assert binary.train.shape == (38 + 3,)
    assert binary.train.x[0, binary.train.features.index("count")] == 7
    assert binary.test.x[0, -2:].tolist() == [0, 1]  # service "new" was never seen; the flag was
    groups = intrusion.nsl_kdd(tmp_path, verify=False, target="groups")
    assert [names.KDD_GROUPS[y] for y in groups.train.y] == ["normal", "dos", "u2r"]
    assert [names.KDD_GROUPS[y] for y in groups.test.y] == ["probe", "r2l", "normal"]
    attacks = intrusion.nsl_kdd(tmp_path, verify=False, target="attacks").test
    assert [attacks.classes[y] for y in attacks.y] == ["mscan", "snmpguess", "normal"]
    assert len(attacks.classes) == 40
    kept = tuple(name for name in names.KDD_FEATURES if name not in names.KDD_MISSING_IN_36)
    head = ",".join([*kept, "class", "difficulty"])
    (tmp_path / "KDDTrain+_36features.csv").write_text("\n".join([head, _kdd("normal", columns=kept)]))
    short = intrusion.nsl_kdd(tmp_path, verify=False, train="36features")
    assert short.train.shape == short.test.shape == (33 + 3,)
    (tmp_path / "KDDTest+.txt").write_text(_kdd("normal") + "\n" + _kdd("heartbleed"))
    with pytest.raises(ConfigError, match="KDDTest.*column 'class', row 2 is 'heartbleed'"):
        intrusion.nsl_kdd(tmp_path, verify=False)
    with pytest.raises(ConfigError, match=r"KDDTrain[+].txt \(plain or .gz\). Get it: https://www.unb.ca"):
        intrusion.nsl_kdd(tmp_path, train="full")


def test_iot_samples_leave_addresses_and_time_out(tmp_path: Path) -> None:
    lines = ["Flow_ID,Src_IP,Src_Port,Dst_IP,Timestamp,Flow_Byts/s,Labelb", *(f"1,2,{n},4,5,0.5,{n % 2}" for n in range(10))]
    (tmp_path / "IoT_2020_b_0.01_fs.csv").write_text("\n".join(lines))
    split = intrusion.iot_ids(tmp_path, verify=False, split="time")
    assert split.train.features == ("Src_Port", "Flow_Byts/s")
    assert split.train.x[:, 0].tolist() == list(range(8))
    assert split.test.x[:, 0].tolist() == [8, 9]
    assert split.test.y.tolist() == [0, 1]


def test_ton_iot_dashes_are_nothing_and_never_verified(tmp_path: Path) -> None:
    columns = ("src_ip", *names.TON_NUMBERS, *names.TON_TEXTS, "label", "type")
    lines = [",".join(columns)]
    for n in range(10):
        row = {"src_ip": "192.168.1.5", "duration": str(n), "dns_AA": "F", "proto": "tcp", "label": str(n % 2)}
        lines.append(",".join(row.get(c, ("normal", "xss")[n % 2] if c == "type" else "-") for c in columns))
    (tmp_path / "Train_Test_Network.csv").write_text("\n".join(lines))
    split = intrusion.ton_iot(tmp_path, target="types")
    assert split.train.digest.startswith("unverified")
    assert split.train.features[0] == "duration"
    assert not any(name == "ip" or name.endswith("src_ip") for name in split.train.features)
    assert split.train.shape == (14 + 8,)
    assert sorted(np.concatenate([split.train.x[:, 0], split.test.x[:, 0]]).tolist()) == list(range(10))
    assert np.isfinite(split.train.x).all()
    assert {split.train.classes[y] for y in split.train.y} == {"normal", "xss"}
    with pytest.raises(ConfigError, match="column 'proto', row 1 is 'tcp'; allowed: udp"):
        intrusion.ton_iot(tmp_path, categories={"proto": ["udp"]})


def _person(age: int, work: str, job: str, pay: str) -> str:
    return f"{age}, {work}, 77516, Bachelors, 13, Never-married, {job}, Not-in-family, White, Male, 0, 0, 40, Cuba, {pay}"


def test_adult_reads_both_files_with_their_quirks(tmp_path: Path) -> None:
    train = [_person(39, "Private", "Sales", "<=50K"), _person(50, "?", "?", ">50K")]
    (tmp_path / "adult.data").write_text("\n".join(train) + "\n\n")
    test = [_person(25, "Never-worked", "Sales", ">50K."), _person(26, "Private", "Craft", "<=50K.")]
    (tmp_path / "adult.test").write_text("|1x3 Cross validator\n" + "\n".join(test) + "\n\n")
    split = people.adult(tmp_path, verify=False)
    assert split.train.y.tolist() == [0, 1]
    assert split.test.y.tolist() == [1, 0]
    assert "workclass=?" in split.train.features
    assert split.train.x[:, 0].tolist() == [39, 50]
    assert split.train.groups is not None
    assert [split.train.group_names[g] for g in split.train.groups] == ["Sales", "?"]
    assert split.test.groups is not None
    assert [split.test.group_names[g] for g in split.test.groups] == ["Sales", "Craft"]
    (tmp_path / "adult.data").write_text("\n".join(train).replace(">50K", "50K"))
    with pytest.raises(ConfigError, match="column 'income', row 2 is '50K'"):
        people.adult(tmp_path, verify=False)


def test_heart_fills_with_training_means_and_says_so(tmp_path: Path) -> None:
    for hospital in ("cleveland", "va"):
        rows = [
            f"{40 + n},1,{1 + n % 4},120,{'0' if hospital == 'va' else '200.0'},0,1,150,0,?,2,?,?,{n % 5}" for n in range(10)
        ]
        (tmp_path / f"processed.{hospital}.data").write_text("\n".join(rows) + "\n")
    split = people.heart_disease(tmp_path, verify=False, hospitals=["cleveland", "va"])
    both = np.vstack([split.train.x, split.test.x])
    names_ = split.train.features
    assert np.isfinite(both).all()
    # Every cholesterol that is known is 200, so the mean is 200 too; va's zeros count as missing.
    assert set(both[:, names_.index("chol")]) == {200.0}
    assert both[:, names_.index("chol missing")].sum() == 10
    assert (both[:, names_.index("ca missing")] == 1).all()
    assert both[:, [names_.index(f"thal={v}") for v in (3, 6, 7)]].sum() == 0
    assert both[:, [names_.index(f"cp={v}") for v in (1, 2, 3, 4)]].sum(axis=1).tolist() == [1.0] * 20
    assert sorted(np.concatenate([split.train.y, split.test.y])) == [0] * 4 + [1] * 16
    severity = people.heart_disease(tmp_path, verify=False, target="severity", hospitals=["va"])
    assert severity.train.group_names == ("va",)
    assert set(severity.train.y) | set(severity.test.y) == set(range(5))
    with pytest.raises(ConfigError, match="processed.hungarian.data"):
        people.heart_disease(tmp_path, verify=False)
    with pytest.raises(ConfigError, match="hospitals = 'vaa'; did you mean \"va\""):
        people.heart_disease(tmp_path, hospitals=["vaa"])


def _arff(fields: int, declared: int) -> str:
    heads = ["UNIQUE_ID", "user", *(f"X{n}" for n in range(fields))][:declared]
    lines = ["@relation r", *(f'@attribute "{name}" numeric' for name in heads), "", "@data"]
    for n in range(20):
        values = [str(n), str(30 + n % 4), *("?" if n == 3 else "2" for _ in range(fields)), names.WISDM_CLASSES[n % 6]]
        lines.append(",".join(values))
    return "\r\n".join(lines) + "\r\n"


@pytest.mark.parametrize("declared", [5, 4])
def test_wisdm_has_one_field_more_than_it_declares(tmp_path: Path, declared: int) -> None:
    (tmp_path / "WISDM_ar_v1.1_transformed.arff").write_text(_arff(3, declared))
    if declared == 4:
        with pytest.raises(ConfigError, match="row 1 has 6 fields; expected 4"):
            sensors.wisdm(tmp_path, verify=False)
        return
    split = sensors.wisdm(tmp_path, verify=False, split="users", test_share=0.25)
    assert split.train.features == ("X0", "X1", "X2", "X0 missing", "X1 missing", "X2 missing")
    assert split.train.group_names == ("30", "31", "32", "33")
    assert split.train.groups is not None
    assert split.test.groups is not None
    assert not set(split.train.groups) & set(split.test.groups)
    assert len(split.test) == 5
    assert (split.train.x[:, :3] == 2).all()
    assert split.train.x[:, 3].sum() + split.test.x[:, 3].sum() == 1
    (tmp_path / "WISDM_ar_v1.1_transformed.arff").write_text("1,2,3")
    with pytest.raises(ConfigError, match="no @data line"):
        sensors.wisdm(tmp_path, verify=False)


def _watch(path: Path, **changes: object) -> None:
    parts: dict[str, object] = {
        "X": np.arange(600, dtype=np.float64).reshape(100, 6),
        "offsets": np.array([0, 10, 40, 70, 100]),
        "y": np.array([0, 1, 2, 6]),
        "subject": np.array([1, 1, 2, 3]),
    }
    arrays: dict[str, Any] = {k: np.asarray(v) for k, v in (parts | changes).items()}
    np.savez(path / "smartwatch_shoulder.npz", **arrays)


def test_smartwatch_windows_never_cross_a_series_or_the_split(tmp_path: Path) -> None:
    _watch(tmp_path)
    split = sensors.smartwatch(tmp_path, verify=False, window=20, stride=5, test_share=0.34)
    # Series of 10, 30, 30, 30 samples: 0, 3, 3 and 3 windows.
    assert (len(split.train), len(split.test)) == (6, 3)
    assert split.train.shape == (6, 20)
    for part in (split.train, split.test):
        first = part.x[:, 0, 0] / 6
        assert ((first - 10) % 30 <= 10).all()
        assert np.array_equal(part.x[:, 0], 6 * (first[:, None] + np.arange(20)))
        assert part.groups is not None
        assert [(0, 1, 2)[g] for g in part.groups] == [{1: 0, 2: 1, 6: 2}[y] for y in part.y.tolist()]
    assert not set(split.train.y) & set(split.test.y)
    with pytest.raises(ConfigError, match="no series is that long"):
        sensors.smartwatch(tmp_path, verify=False, window=31)
    for change, message in (
        ({"X": np.zeros((100, 5))}, "X .100, 5."),
        ({"offsets": np.array([0, 10, 40, 30, 100])}, "must rise from 0 to 100"),
        ({"y": np.array([0, 1, 2, 7])}, "a label outside 0 to 6"),
        ({"X": np.full((100, 6), np.nan)}, "not finite"),
        ({"subject": np.array([{}, 1, 2, 3], dtype=object)}, "no archive of X, offsets, y and subject"),
    ):
        _watch(tmp_path, **change)
        with pytest.raises(ConfigError, match=message):
            sensors.smartwatch(tmp_path, verify=False, window=20)
    place = tmp_path / "smartwatch_shoulder.npz"
    whole = place.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"PK\x03\x04", b"\x80\x04.", b""):
        place.write_bytes(damaged)
        with pytest.raises(ConfigError, match="no archive of X, offsets, y and subject"):
            sensors.smartwatch(tmp_path, verify=False)


AIR = (
    '"No","year","month","day","hour","PM2.5","PM10","SO2","NO2","CO","O3","TEMP","PRES","DEWP","RAIN","wd","WSPM","station"\n'
)


def test_beijing_predicts_the_next_hour_and_never_looks_ahead(tmp_path: Path) -> None:
    pm = ["NA", "5", "6", "NA", "8", "9", "10", "11"]
    rows = [f'{h + 1},2013,3,1,{h},{pm[h]},1,1,1,{"NA" if h == 4 else 100 + h},1,1,1,1,0,"E",0.5,"Dongsi"' for h in range(8)]
    (tmp_path / "PRSA_Data_Dongsi_20130301-20170228.csv").write_text(AIR + "\n".join(rows) + "\n")
    split = sensors.beijing_air(tmp_path, verify=False, stations=["Dongsi"], test_hours=2)
    # Hour 3 has no PM2.5: no record has it as target. Targets of hours 6 and 7 are the test part.
    assert split.train.y.tolist() == [5, 6, 8, 9]
    assert split.test.y.tolist() == [10, 11]
    assert split.train.y.dtype == np.float32
    # PM2.5 of hours 0, 1, 3, 4: hour 0 takes the first there is, hour 3 carries hour 2.
    assert split.train.x[:, 0].tolist() == [5, 5, 6, 8]
    assert split.train.x[:, 4].tolist() == [100, 101, 103, 103]
    east = split.train.x[0, split.train.features.index("wd sin")]
    assert east == pytest.approx(1)
    assert split.train.classes == ()
    two = sensors.beijing_air(tmp_path, verify=False, stations=["Dongsi"], ahead=2, test_hours=2)
    assert two.train.y.tolist() == [6, 8, 9]
    with pytest.raises(ConfigError, match="test_hours = 8760 leaves none"):
        sensors.beijing_air(tmp_path, verify=False, stations=["Dongsi"])
    with pytest.raises(ConfigError, match="PRSA_Data_Aotizhongxin"):
        sensors.beijing_air(tmp_path, verify=False)
