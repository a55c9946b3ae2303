"""A federation of real processes whose updates are summed under masks, and what must come of it."""

import contextlib
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.attacks.testbed import Federation, eventually
from edgehold.client.data.synthetic import make_task
from edgehold.client.keep import Keep
from edgehold.core.masks.client_state import ClientState
from edgehold.core.masks.fixed import FixedPoint
from edgehold.core.masks.sizing import Sizes, sized
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import threshold
from edgehold.core.plan import parse_plan
from edgehold.core.vectors import FloatArray, MemorySpace, Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.server import FedAvgServer
from edgehold.proto.v1 import admin_pb2 as pb

ENTRY = "edgehold.client.data.synthetic:make_task"
TASK = "numbers"


def plan(
    name: str, rounds: int = 1, size: int = 10, quorum: int = 8, masked: bool = True, masks: Mapping[str, Any] | None = None,
    **cohort: Any,
) -> str:  # fmt: skip
    """FedAvg under masks, in one group where nothing else is said. masks: more keys of [masks]."""
    more = "".join(f"{key} = {value}\n" for key, value in cohort.items())
    table = {"clip": 4.0, "group_least": 8, **(masks or {})}
    sums = "[privacy]\nmasked = true\n[masks]\n" + "".join(f"{key} = {value!r}\n" for key, value in table.items())
    return (
        f'[run]\nname = "{name}"\nrounds = {rounds}\ntask = "{TASK}"\nseed = 5\n'
        f"[cohort]\nsize = {size}\nquorum = {quorum}\nover_select = 1.0\n{more}"
        '[evaluation]\nevery = 0\n[method]\nname = "fedavg"\n[weights]\nby = "equal"\n' + (sums if masked else "")
    )


class Bed(Federation):
    """Devices dev-0, dev-1, ... whose models have `values` numbers; dev-i adds (i + 1) / 1024."""

    def __init__(self, folder: Path, values: int, devices: int, **more: Any) -> None:
        self.values, self.devices = values, devices
        super().__init__(folder, tasks={TASK: (ENTRY, {"values": values})}, **more)

    def __enter__(self) -> "Bed":
        return self

    def everybody(self, budgets: Mapping[str, tuple[float, float]] | None = None) -> None:
        """Server and devices up and connected."""
        self.start_server()
        for client in self.names:
            self.join(client, budgets)
            self.start_client(client)
        self.wait_connected(self.devices)

    def join(self, client: str, budgets: Mapping[str, tuple[float, float]] | None = None) -> None:
        """Enrol a device that takes part in masked runs alone."""
        index = int(client.removeprefix("dev-"))
        self.add_client(client, {TASK: (ENTRY, {"values": self.values, "device_index": index})}, budgets=budgets)
        policy = self.folder / client / "policy.toml"
        policy.write_text(policy.read_text().replace("allow_unmasked = true", "allow_unmasked = false"), encoding="utf-8")

    @property
    def names(self) -> list[str]:
        """All devices."""
        return [f"dev-{index}" for index in range(self.devices)]

    def log(self, client: str) -> str:
        """What a device's daemon logged so far."""
        return (self.folder / f"{client}.log").read_text()

    def restart(self, client: str, environment: Mapping[str, str] | None = None) -> None:
        """Kill a device and start it again."""
        self.clients[client].stop(9)
        self.start_client(client, environment)

    def ended(self, run: str, timeout_s: float = 60.0) -> pb.RunInfo:
        """A run as it stands at its end."""
        states = ("finished", "failed", "stopped")
        eventually(lambda: self.info(run).state in states, timeout_s, f"the end of {run}")
        return self.info(run)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """From the server's journal."""
        return read(self.home / "journal.db", query, *values)

    def facts(self, run: str, round_: int = 1) -> dict[str, float]:
        """Of a committed round."""
        query = "SELECT facts FROM rounds WHERE run=? AND round=? AND state='committed'"
        return {key: value for key, value in json.loads(self.rows(query, run, round_)[0][0]).items() if key.startswith("mask_")}

    def survivors(self, run: str, round_: int = 1) -> tuple[str, ...]:
        """Whose updates are in a committed round's model, as the audit log has it."""
        query = "SELECT detail FROM audit WHERE event='round_committed' AND subject=? ORDER BY seq"
        found = [json.loads(row[0]) for row in self.rows(query, run)]
        return next(tuple(one["survivors"]) for one in found if one["round"] == round_)

    def reveals(self, client: str, run: str) -> list[tuple[int, int, bytes]]:
        """Round, attempt and digest of the sets of survivors that a device has answered."""
        query = "SELECT round, attempt, set_digest FROM revealed WHERE run=? ORDER BY round, attempt"
        return read(self.folder / client / "keep.db", query, run)

    def revealed_once(self, run: str, rounds: Sequence[int]) -> None:
        """In one attempt of each round at least t + 1 devices answered a set, no device two, and all of them the same one.

        Not every device: the sum is made once enough have answered and the others are not connected.
        """
        sets: dict[int, set[tuple[int, bytes]]] = {number: set() for number in rounds}
        answered = dict.fromkeys(rounds, 0)
        for client in self.names:
            lines = self.reveals(client, run)
            assert len({line[0] for line in lines}) == len(lines), f"{client} answered two sets in a round: {lines}"
            for number, attempt, digest in lines:
                sets[number].add((attempt, digest))
                answered[number] += 1
        assert all(len(found) == 1 for found in sets.values()), f"devices answered different sets: {sets}"
        assert min(answered.values()) > threshold(self.devices), f"devices that answered, by round: {answered}"

    def secrets(self, client: str) -> int:
        """Masked sums whose secrets a device still holds."""
        return int(read(self.folder / client / "keep.db", "SELECT COUNT(*) FROM mask")[0][0])

    def forgotten(self, clients: Sequence[str] | None = None) -> None:
        """Wait until no device holds a secret or an update any more."""
        for client in clients or self.names:
            eventually(partial(self._empty, client), 20.0, f"{client} to forget its secrets and its updates")

    def _empty(self, client: str) -> bool:
        return not self.secrets(client) and not list((self.folder / client / "outbox").iterdir())

    def state_of(self, client: str) -> ClientState:
        """The newest masked sum that a device is in the midst of, secrets and all: what no server may ever hold."""
        keep = Keep(self.folder / client / "keep.db")
        try:
            with keep._db.reading() as db:
                run, state = db.execute("SELECT run, state FROM mask ORDER BY run, round DESC, attempt DESC").fetchone()
            return ClientState.load(keep._opened(run, state))
        finally:
            keep.close()


def read(path: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Rows of somebody else's database."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(query, values).fetchall()


def indices(clients: Iterable[str]) -> tuple[int, ...]:
    """Numbers of devices by their names."""
    return tuple(sorted(int(client.removeprefix("dev-")) for client in clients))


def change(start: FloatArray, index: int) -> FloatArray:
    """What device `index` sends about a model."""
    task = make_task(len(start), index)
    trained = np.add(start, np.float32(task.step), dtype=np.float32)
    return np.subtract(trained, start, dtype=np.float32)


@lru_cache(maxsize=64)
def summed(values: int, rounds: tuple[tuple[int, ...], ...], text: str = "") -> FloatArray:
    """The model after rounds in which these devices' updates were added up, in this process and without masks."""
    parsed, settings = parse_plan(text or plan("reference"), registry.method)
    sizes = sized(parsed.masks, values, 0)
    side = FedAvgServer(settings, make_task(values).schema, parsed.run.seed)
    state, grid = side.start(Vector.of(make_task(values).initial(parsed.run.seed))), _Grid(sizes)
    for devices in rounds:
        if not devices:
            continue
        start = state.model.whole()
        total = sum((grid.grid.encode(change(start, index)) for index in devices), np.zeros(values, np.int64))
        group = GroupSum(tuple(f"dev-{index}" for index in devices), total.astype("<u4"))
        terms: Any = grid
        state, _ = side.fold(state, [group], terms, parsed.masks.blend, MemorySpace())
    return state.model.whole()


def digest_of(model: FloatArray) -> bytes:
    """What a run says of its model."""
    return hashlib.sha256(model.astype("<f4").tobytes()).digest()


class _Grid:
    """All that a fold looks at of the terms."""

    def __init__(self, sizes: Sizes) -> None:
        self.grid = FixedPoint(sizes.clip, sizes.largest // 2)


def files(folder: Path) -> list[Path]:
    """Every file below a folder, as it stands now."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                found.append(path)
    return found


def holding(paths: Iterable[Path], secrets: Mapping[str, bytes]) -> list[str]:
    """Which of the secrets stand in which file, as they are or in hex."""
    hits = []
    for path in paths:
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            hits += [f"{what} in {path}" for what, secret in secrets.items() if secret in data or secret.hex().encode() in data]
    return hits


def points(text: str) -> set[str]:
    """Crash points named in code."""
    return set(re.findall(r'\breach\("(\w+)"\)', text))
