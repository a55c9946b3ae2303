"""Bytes on the wire are a promise to devices that are not updated. After a change on purpose, with its reason in the
commit: `python -m tests.golden.test_golden` writes the file anew.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.golden.samples import examples, kinds, serialized, statements

GOLDEN = Path(__file__).with_name("golden.json")
REPOSITORY = Path(__file__).parents[2]


def current() -> dict[str, dict[str, str]]:
    messages = dict(pair for kind in kinds().values() for pair in examples(kind))
    return {
        "messages": {name: serialized(message).hex() for name, message in sorted(messages.items())},
        "statements": {name: data.hex() for name, data in statements().items()},
    }


def test_nothing_on_the_wire_has_changed() -> None:
    golden = json.loads(GOLDEN.read_text())
    found = current()
    for part in ("messages", "statements"):
        assert found[part].keys() == golden[part].keys()
        for name, data in golden[part].items():
            assert found[part][name] == data, f"{name} has other bytes than in the last release"


def test_golden_bytes_are_read_back() -> None:
    for kind in kinds().values():
        for name, message in examples(kind):
            assert kind.FromString(bytes.fromhex(json.loads(GOLDEN.read_text())["messages"][name])) == message


def test_an_example_leaves_no_field_empty() -> None:
    """Or a change of that field would go unseen."""
    for name, kind in kinds().items():
        seen = {field.name for _, message in examples(kind) for field, _ in message.ListFields()}
        assert seen == set(kind.DESCRIPTOR.fields_by_name), name


@pytest.mark.skipif(importlib.util.find_spec("grpc_tools") is None, reason="grpc_tools is not installed")
def test_the_generated_code_is_fresh(tmp_path: Path) -> None:
    subprocess.run(
        [REPOSITORY / "scripts" / "generate", tmp_path], check=True, env={**os.environ, "PYTHON": sys.executable}, timeout=100
    )
    generated = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_pb2.py*")}
    there = REPOSITORY / "proto"
    committed = {
        path.relative_to(there): path.read_text() for path in there.rglob("*_pb2.py*") if path.suffix in (".py", ".pyi")
    }
    assert len(generated) >= 12
    assert generated.keys() == committed.keys()
    for path, text in generated.items():
        assert committed[path] == text, f"{path} is not what scripts/generate makes of its .proto file"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(current(), indent=1) + "\n")
