"""docs/data.md names every data set, every option of every loader, and every model with its options."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest

from edgehold.client.data import tasks
from edgehold.client.data.catalogue import DATASETS
from edgehold.client.models import MODELS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def _rows(first: str) -> list[str]:
    return [line for line in PAGE.splitlines() if line.startswith(f"| `{first}` |")]


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_is_described_with_its_options(name: str) -> None:
    rows = _rows(name)
    assert any(row.endswith(f"`{DATASETS[name].model}` |") for row in rows)
    options = set(inspect.signature(DATASETS[name].load).parameters) - {"path", "seed", "verify"}
    listed = {option for option in options if any(f"`{option}`" in row for row in rows)}
    assert options == listed


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_described_with_its_options(name: str) -> None:
    (row,) = _rows(name)
    for option in set(inspect.signature(MODELS[name]).parameters) - {"shape", "outputs"}:
        assert f"`{option}`" in row


def test_every_option_of_the_entry_point_is_described() -> None:
    for option in inspect.signature(tasks.make_task).parameters:
        assert f"`{option}`" in PAGE, option


def test_the_examples_are_toml_the_entry_point_takes() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        for table in tomllib.loads(block)["tasks"].values():
            inspect.signature(tasks.make_task).bind(**table["options"])
            load = DATASETS[table["options"]["dataset"]].load
            inspect.signature(load).bind(table["options"]["path"], **table["options"].get("data", {}))
