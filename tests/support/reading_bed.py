"""A federation of real processes that know the method of `tests.support.adding`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgehold.attacks.testbed import Federation, Process
from edgehold.client.data.synthetic import make_task
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

ENTRY = "edgehold.client.data.synthetic:make_task"
REPOSITORY = Path(__file__).parents[2]
PATH = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
TASK = "numbers"


def plan(name: str, rounds: int, size: int, path: str = "relay", reads: int = 2, **cohort: Any) -> str:
    more = "".join(f"{key} = {value}\n" for key, value in cohort.items())
    return (
        f'[run]\nname = "{name}"\nrounds = {rounds}\ntask = "{TASK}"\nseed = 5\n'
        f"[cohort]\nsize = {size}\nquorum = {size}\nover_select = 1.0\n{more}"
        f'[evaluation]\nevery = 0\n[method]\nname = "adding"\nreads = {reads}\n[peers]\npath = "{path}"\n'
    )


def reads_itself(process: Process, module: str) -> None:
    """Have a daemon start through `tests.support.adding`, so that it knows the method."""
    at = process.command.index("-m")
    assert process.command[at + 1] == module
    process.command[at + 1 : at + 2] = ["tests.support.adding", module]


class Bed(Federation):
    """Devices dev-0, dev-1, ... whose models have `values` numbers."""

    def __init__(self, folder: Path, values: int, **more: Any) -> None:
        self.values = values
        super().__init__(folder, tasks={TASK: ("tests.support.adding:make_task", {"values": values})}, **more)
        reads_itself(self.daemon, "edgehold.server")

    def __enter__(self) -> "Bed":
        return self

    def join(self, client: str, index: int, peers: Mapping[str, Any] | None = None, adversary: Any = None) -> None:
        """Enrol a device. peers: its [peers] table."""
        self.add_client(client, {TASK: (ENTRY, {"values": self.values, "device_index": index})}, adversary)
        if peers is not None:
            config = self.folder / client / "client.toml"
            lines = "".join(f"{key} = {value!r}\n".replace("'", '"') for key, value in peers.items())
            config.write_text(config.read_text() + f"[peers]\n{lines}", encoding="utf-8")
        reads_itself(self.clients[client], "edgehold.client")

    def start_server(self, environment: Mapping[str, str] | None = None) -> float:
        return super().start_server({"PYTHONPATH": PATH, **(environment or {})})

    def start_client(self, client: str, environment: Mapping[str, str] | None = None) -> None:
        super().start_client(client, {"PYTHONPATH": PATH, **(environment or {})})

    def log(self, client: str) -> str:
        """What a device's daemon logged so far."""
        return (self.folder / f"{client}.log").read_text()


def in_one_process(text: str, devices: int, values: int) -> engine.Result:
    """The same run in this process, which must have the method."""
    tasks = {f"dev-{i}": make_task(values, i) for i in range(devices)}
    return engine.run(*parse_plan(text, registry.method), tasks)
