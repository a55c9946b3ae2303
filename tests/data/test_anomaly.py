"""Tasks of normal records: who gets what, what is held back, what is judged, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehold.client.data.anomaly import make_task
from edgehold.core.anomaly import NEVER, Detector, names_digest
from edgehold.core.errors import ConfigError


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    """Sixty records, every third bad; column a counts up, b goes down, proto is text, site has two values."""
    lines = [f"{i},{100 - i},{'tcp' if i % 2 else 'udp'},{'bad' if i % 3 == 2 else 'good'},{i % 2}" for i in range(60)]
    path = tmp_path / "flows.csv"
    path.write_text("a,b,proto,verdict,site\n" + "\n".join(lines) + "\n")
    return path


def made(path: Path, index: int = 0, **more: Any) -> Any:
    data = {"label": "verdict", "classes": ["good", "bad"], "numbers": ["a", "b"], "categories": {"proto": ["tcp", "udp"]}}
    given = {"devices": 3, "components": 1, "data": data | more.pop("data", {})}
    return make_task(path=str(path), device_index=index, **(given | more))


def test_devices_have_normal_records_alone_and_share_none(flows: Path) -> None:
    tasks = [made(flows, i, partition="sorted", sort_by="b") for i in range(3)]
    rows = [np.concatenate([t.train_data.x, t.held_data.x]) for t in tasks]
    values = [set(part[:, 0].tolist()) for part in rows]
    assert not values[0] & values[1]
    assert all(value % 3 != 2 for part in values for value in part)
    # Sorted by b, which goes down as a goes up: device 0 has the largest a.
    assert min(values[0]) > max(values[1]) > min(values[1]) > max(values[2])
    assert max(map(len, values)) - min(map(len, values)) <= 1
    assert [t.samples for t in tasks] == [len(t.train_data) for t in tasks]
    assert all(len(t.held_data) == round(0.1 * len(part)) for t, part in zip(tasks, rows, strict=True))
    assert tasks[0].train_data.features == ("a", "b")  # numbers alone, unless columns are named
    assert tasks[0].test_data is None
    again = made(flows, 1, partition="sorted", sort_by="b")
    assert np.array_equal(again.train_data.x, tasks[1].train_data.x)
    everyone = sum(len(part) for part in rows)
    ways: tuple[dict[str, Any], ...] = (
        {"partition": "iid"},
        {"partition": "quantity"},
        {"partition": "groups", "devices": 2, "data": {"group": "site"}},
    )
    for how in ways:
        count = how.get("devices", 3)
        found = [made(flows, i, held_share=0.0, **how) for i in range(count)]
        assert sum(t.samples for t in found) == everyone
        assert all(t.held_data is None for t in found)


def test_the_servers_copy_has_attacks_and_scores(flows: Path) -> None:
    own = made(flows, -1, columns=["b", "a", "proto=tcp"], curve="none", clip=3.0, components=2)
    assert own.train_data is None
    assert own.test_data.features == ("b", "a", "proto=tcp")
    assert set(own.test_data.y.tolist()) == {0, 1}
    first = own.initial(4)
    model = Detector.of(own.schema, first)
    assert (model.reading.curve, model.reading.clip, model.threshold) == ("none", 3.0, NEVER)
    assert model.reading.columns == names_digest(("b", "a", "proto=tcp"))
    assert first.tobytes() == own.initial(4).tobytes() != own.initial(5).tobytes()
    found = own.evaluate(first)
    assert (found["recall"], found["false_positive_rate"]) == (0, 0)  # no threshold yet
    assert 0 < found["all_alarm_f1"] < 1
    with pytest.raises(ConfigError, match="the test records: the 2 columns a, b are not those"):
        made(flows, -1, components=1).evaluate(made(flows, -1, columns=["b", "a"], components=1).initial(1))


def test_a_table_without_verdicts_is_all_normal(flows: Path) -> None:
    task = make_task(path=str(flows), components=1, held_share=0.25, data={"numbers": ["b", "a"]})
    assert (task.samples, len(task.held_data or ())) == (45, 15)
    assert task.train_data is not None
    assert task.train_data.features == ("b", "a")
    assert (
        make_task(path=str(flows), device_index=-1, components=1, data={"numbers": ["b", "a"]}).evaluate(task.initial(1)) == {}
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"components": 2}, "components = 2 of 2 columns"),
        ({"components": 0}, "components = 0 of 2 columns"),
        ({"columns": ["a", "c"]}, "columns = 'c'"),
        ({"partition": "dirichlet"}, "partition = 'dirichlet'"),
        ({"partition": "sorted"}, "sort_by = ''"),
        ({"partition": "sorted", "sort_by": "a", "devices": 30}, "normal records cannot give 30 devices 2 each"),
        ({"partition": "groups"}, "no natural clients"),
        ({"index": 3}, "device_index = 3; allowed: 0 to 2"),
        ({"held_share": 1.0}, "held_share = 1.0"),
        ({"held_share": 0.99}, "leaves none to learn from"),
        ({"curve": "root"}, "curve = 'root'; allowed: log, none"),
        ({"clip": -1.0}, "clip = -1.0"),
        ({"limit": 0}, "limit = 0"),
        ({"normal": "fine"}, "normal = 'fine'"),
        ({"data": {"numbers": ["a", "proto"], "categories": {}}}, "column 'proto', row 1 is 'udp'; expected a finite number"),
        ({"dataset": "digits"}, "no table of columns with classes|unknown|option"),
    ],
)
def test_impossible_tasks_are_refused(flows: Path, more: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        made(flows, **more)


def test_a_file_of_ones_own_may_be_checked(flows: Path) -> None:
    with pytest.raises(ConfigError, match="data.sha256 says"):
        make_task(path=str(flows), components=1, data={"numbers": ["a", "b"], "sha256": "0" * 64})
    empty = flows.with_name("empty.csv")
    empty.write_text("a,b\n")
    with pytest.raises(ConfigError, match="a header but no record|fields"):
        make_task(path=str(empty), components=1)


@pytest.mark.slow
def test_real_traffic(real: Callable[[str], Path]) -> None:
    """d 39 on UNSW-NB15, and the normal class found where labels are groups."""
    task = make_task("unsw-nb15", str(real("unsw-nb15")), 0, 10, partition="sorted", sort_by="ct_srv_src")
    assert task.train_data is not None
    assert task.train_data.x.shape[1] == 39
    groups = make_task("nsl-kdd", str(real("nsl-kdd")), -1, 2, normal="normal", data={"target": "groups"})
    assert groups.test_data is not None
    assert int(groups.test_data.y.sum()) == 22_544 - 9_711
