"""The benchmarks of thousands read logs and samples as they are written."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from benchmarks import connections, engine, thousands

SERVER = """\
2026-01-01T00:00:10.000Z info    run bench round 1 committed
2026-01-01T00:00:10.250Z info    round_begun run=bench round=2 attempt=1
2026-01-01T00:00:12.000Z info    round_begun run=bench round=3 attempt=1
"""
ONE = """\
2026-01-01T00:00:09.000Z info    connected client=device-1 boot_epoch=1
2026-01-01T00:00:10.500Z info    task_received client=device-1 state=received waited_s=0.2 run=bench round=2 attempt=1
2026-01-01T00:00:10.600Z info    trained client=device-1 seconds=0.1 bytes=44 run=bench round=2 attempt=1
"""
TWO = """\
2026-01-01T00:00:13.001Z info    task_received client=device-2 state=received waited_s=1.0 run=bench round=3 attempt=1
2026-01-01T00:00:10.251Z info    task_received client=device-3 state=received waited_s=0.0 run=bench round=2 attempt=1
"""


def test_waits_are_read_from_the_logs(tmp_path: Path) -> None:
    logs = {name: tmp_path / f"{name}.log" for name in ("server", "one", "two")}
    for name, text in (("server", SERVER), ("one", ONE), ("two", TWO)):
        logs[name].write_text(text, encoding="utf-8")
    clients = {name: SimpleNamespace(log=logs[name]) for name in ("one", "two")}
    bed = SimpleNamespace(daemon=SimpleNamespace(log=logs["server"]), clients=clients)
    found = connections.waited(cast(Any, bed))
    rounded = {number: sorted((round(a, 3), round(b, 3)) for a, b in pairs) for number, pairs in found.items()}
    assert rounded == {2: [(0.001, 0.001), (0.05, 0.25)], 3: [(0.001, 1.001)]}


def test_kernels_are_torch_and_what_onednn_wrote() -> None:
    yes = ("libtorch_cpu.so", "[JIT] tid 17", "jit-17-2.so", "//anon")
    no = ("libtorch_python.so", "libc10.so", "libc.so.6", "libpython3.11.so.1.0", "python3.11", "[kernel.kallsyms]")
    assert [bool(thousands.KERNELS.search(one)) for one in yes + no] == [True] * 4 + [False] * 6


def test_each_client_of_ten_thousand_has_its_own_records() -> None:
    one, again, other = (engine.make_task(number, 10_000, resampled=True) for number in (7, 7, 9_999))
    assert one.samples == other.samples == engine.RECORDS
    assert one.train_data is not None
    assert again.train_data is not None
    assert other.train_data is not None
    assert (one.train_data[0] == again.train_data[0]).all()
    assert not (one.train_data[0] == other.train_data[0]).all()
