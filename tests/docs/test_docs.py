"""The documents say what is so: their examples run, their names exist, their links lead somewhere."""

import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import pytest

from edgehold.client.app import main as client_command
from edgehold.client.config import ClientConfig
from edgehold.core.plan import parse_plan
from edgehold.core.task import Task
from edgehold.defenses import registry
from edgehold.defenses.baselines.rules import RULES
from edgehold.server.app import main as server_command
from edgehold.server.config import TaskEntry
from edgehold.server.engine import run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("architecture", "demo", "deploy", "devices", "matrix", "monitoring", "peers")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
]


def block(language: str, first_line: str) -> str:
    """The fenced block of the README that begins with this line."""
    found: str = next(
        text for text in re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
        if text.startswith(first_line + "\n")
    )  # fmt: skip
    return found


def records(path: Path, count: int, seed: int) -> str:
    """Twelve numbers per record; the target is the sign of their sum."""
    inputs = np.random.default_rng(seed).standard_normal((count, 12))
    np.savez(path, inputs=inputs, targets=inputs.sum(1) > 0)
    return str(path)


def test_the_readmes_task_and_plan_train_a_model(tmp_path: Path) -> None:
    code: dict[str, Any] = {}
    exec(compile(block("python", "# wards.py"), "wards.py", "exec"), code)  # noqa: S102  (the README's own example)
    make_task = code["make_task"]
    plan, settings = parse_plan(block("toml", "# plan.toml"), registry.method)
    devices: dict[str, Task] = {f"ward-{i}": make_task(train=records(tmp_path / f"{i}.npz", 200, i)) for i in range(8)}
    result = run(plan, settings, devices, make_task(test=records(tmp_path / "test.npz", 400, 99)))
    assert len(result.rounds) == plan.run.rounds
    assert result.rounds[0]["clients_admitted"] == plan.cohort.size
    # Half of the records are of each kind: 0.5 is chance.
    assert result.rounds[-1]["accuracy"] > 0.9


def test_the_readmes_configurations_name_that_task() -> None:
    client = msgspec.toml.decode(block("toml", "# client.toml"), type=ClientConfig)
    server = tomllib.loads(block("toml", "# server.toml"))["tasks"]
    copies = msgspec.convert(server, dict[str, TaskEntry])
    assert {name: entry.task for name, entry in client.tasks.items()} == {"readmission": "wards:make_task"}
    assert {name: entry.task for name, entry in copies.items()} == {"readmission": "wards:make_task"}
    assert tomllib.loads(block("toml", "# plan.toml"))["run"]["task"] == "readmission"


def test_the_tour_has_a_plan_that_is_legal() -> None:
    text = README.split("$ cat plan.toml\n")[1].split("$ ")[0]
    assert parse_plan(text, registry.method)[0].run.name == "digits-1"


def test_the_table_of_rules_is_that_of_the_code() -> None:
    rows = [line for line in README.splitlines() if re.match(r"\| `\w+` \| (0|fewer|at most)", line)]
    assert len(rows) >= 4
    for row in rows:
        entry = RULES[row.split("`")[1]]
        for n in (5, 6, 8):
            most = {"0": 0, "fewer than half": (n - 1) // 2, "at most (n - 3) / 2": (n - 3) // 2}[row.split(" | ")[1]]
            assert entry.most(n) == most
    assert all(f"`{name}`" in README for name in registry.names())


@pytest.mark.parametrize(("program", "command"), [("fl-server", server_command), ("fl-client", client_command)])
def test_every_command_in_the_documents_exists(program: str, command: click.Command) -> None:
    assert isinstance(command, click.Group)
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    used = set(re.findall(rf"{program} ([a-z]+)\b(?! process)", text)) - {"and", "to"}
    assert used
    assert used <= set(command.commands)
    for line in re.findall(rf"{program} [a-z]+ [^\n`|]*", text):
        name = line.split()[1]
        if name in command.commands:
            known = {option for parameter in command.commands[name].params for option in parameter.opts}
            assert set(re.findall(r"(?<=\s)--[a-z0-9-]+", line)) <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    def headings(text: str) -> set[str]:
        lines = [line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("#")]
        return {re.sub(r"[^\w\- ]", "", line).replace(" ", "-") for line in lines}

    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, heading = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not heading or heading in headings(there.read_text(encoding="utf-8")), target


def crash_points() -> set[str]:
    rooms = [path for room in ("client", "core", "server") for path in (ROOT / room).rglob("*.py")]
    return {name for path in rooms for name in re.findall(r'\breach\("(\w+)"\)', path.read_text(encoding="utf-8"))}


def test_every_crash_point_is_in_the_page_and_in_the_picture() -> None:
    listed = set(re.findall(r"^\| (?:server|device) \| `(\w+)`", ARCHITECTURE, re.MULTILINE))
    assert listed == crash_points(), "docs/architecture.md lists every crash point, and docs/update-path.svg shows it"
    drawing = ElementTree.parse(ROOT / "docs" / "update-path.svg")  # our own file
    drawn = " ".join("".join(text.itertext()) for text in drawing.iter() if text.get("class") == "crash")
    assert crash_points() <= set(re.findall(r"\w+", drawn))


def test_files_named_in_the_documents_exist() -> None:
    for page in PAGES:
        for path in re.findall(
            r"`((?:core|client|server|defenses|attacks|proto|tests|scripts|docs)/[\w./-]+)`", page.read_text()
        ):
            if "..." not in path:
                assert (ROOT / path).exists(), f"{page.name}: {path}"
            else:
                room, name = path.split("/.../")
                assert list((ROOT / room).rglob(name)), f"{page.name}: {path}"


def test_the_json_that_the_demo_page_shows_is_what_the_demo_writes() -> None:
    import json

    from edgehold.attacks import demo

    text = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
    shown = json.loads(re.findall(r"^```json\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[0])
    one = demo.Outcome(demo.SCENARIOS[0], 0, [0.5], 1.0, 1, Path("model"))
    assert list(shown["runs"][0]) == list(one.as_dict())
