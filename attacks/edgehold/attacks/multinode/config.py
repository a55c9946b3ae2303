"""testbed.toml: who takes part, what they train, who lies, and what the links between them are like.

Nothing in it depends on the backend, except that plain processes share one loopback and so have no links of their own.
"""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgehold.attacks.demo.plan import Scenario
from edgehold.attacks.testbed import Tasks, toml
from edgehold.core.about import VERSION
from edgehold.core.config import Config, convert, read_toml, suggest
from edgehold.core.errors import ConfigError
from edgehold.core.plan import Count, Name, Positive, parse_plan
from edgehold.defenses import registry

Share = Annotated[float, msgspec.Meta(ge=0, le=50)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
MOST_NODES = 200
"""The nodes' addresses come from one /24."""

RUNS = ("clean", "attacked", "defended")


class TestbedTable(Config, frozen=True, kw_only=True):
    """[testbed]: name: of the federation. honest, liars: devices; the liars come last. rounds: of each run. seed: of data,
    first weights and training. monitoring: with the compose backend, Prometheus and Grafana beside the server.
    """

    __test__ = False  # no test class, whatever its name begins with

    name: Name = "testbed"
    honest: Annotated[int, msgspec.Meta(ge=1)] = 8
    liars: Annotated[int, msgspec.Meta(ge=0)] = 2
    rounds: Count = 5
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    monitoring: bool = False


class EnrolmentTable(Config, frozen=True, kw_only=True):
    """[enrolment]: token_life_s: how long a one-time bundle opens the federation; certificate_life_s: until a device renews."""

    token_life_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 3600.0
    certificate_life_s: Annotated[float, msgspec.Meta(ge=60)] = 86400.0


class TaskTable(Config, frozen=True, kw_only=True):
    """[task]: what every device trains. entry: a factory that takes device_index (-1: the server's copy), devices and seed
    beside the options; its metrics must include an accuracy, which is what the report compares.
    """

    name: Name
    entry: str
    options: dict[str, Any] = {}


class CohortTable(Config, frozen=True, kw_only=True):
    """[cohort]: deadlines of each round, as in a plan. Every device takes part in every round."""

    join_deadline_s: Positive = 120.0
    round_deadline_s: Positive = 300.0
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5


class AttackTable(Config, frozen=True, kw_only=True):
    """[attack]: the liars' [adversary] table."""

    entry: str
    options: dict[str, Any] = {}


class Link(Config, frozen=True, kw_only=True):
    """[link]: every device's link, the same each way. delay_ms: of each packet, one way; jitter_ms: uniform, added or taken
    off; loss_percent: of packets, independently; rate_mbit: 0 for no limit.
    """

    delay_ms: NotNegative = 0.0
    jitter_ms: NotNegative = 0.0
    loss_percent: Share = 0.0
    rate_mbit: NotNegative = 0.0

    @property
    def plain(self) -> bool:
        """Whether nothing is asked of it."""
        return self == Link()


class Partition(Config, frozen=True, kw_only=True):
    """[[partition]]: these clients are off the network from the beginning of each of these rounds, for so long.

    clients: names; rounds: of every run, counted from 1; () for all of them, each round another of the clients, in turn.
    """

    clients: tuple[Name, ...]
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)]
    rounds: tuple[Count, ...] = ()

    def cut_in(self, number: int) -> tuple[str, ...]:
        """Who is off the network in a round."""
        if not self.rounds:
            return (self.clients[(number - 1) % len(self.clients)],)
        return self.clients if number in self.rounds else ()


class ImagesTable(Config, frozen=True, kw_only=True):
    """[images]: with the compose backend, which image the server and the devices run: "train" where the task needs PyTorch.

    tag: of edgehold/NAME:TAG; "" for the installed version.
    """

    server: Literal["server", "train"] = "server"
    devices: Literal["device", "train"] = "device"
    tag: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{0,128}$")] = ""

    def name(self, image: str) -> str:
        """The image's whole name."""
        return f"edgehold/{image}:{self.tag or VERSION}"


class Testbed(Config, frozen=True, kw_only=True):
    """A whole testbed.toml. method: the plan's [method] table, undefended; defence: what it says differently when
    defended, where the rule is told how many lie unless it says otherwise.
    """

    __test__ = False

    testbed: TestbedTable = TestbedTable()
    enrolment: EnrolmentTable = EnrolmentTable()
    task: TaskTable
    method: dict[str, Any]
    defence: dict[str, Any] = {}
    cohort: CohortTable = CohortTable()
    attack: AttackTable
    images: ImagesTable = ImagesTable()
    link: Link = Link()
    partition: tuple[Partition, ...] = ()

    @property
    def clients(self) -> tuple[str, ...]:
        """All devices, the honest first. Names sort as they count, because the server folds in the order of names."""
        many = self.testbed.honest + self.testbed.liars
        return tuple(f"dev-{i:0{len(str(many - 1))}d}" for i in range(many))

    @property
    def liars(self) -> tuple[str, ...]:
        """Those that lie once they are told to."""
        return self.clients[self.testbed.honest :]

    @property
    def digest(self) -> str:
        """SHA-256 of everything in it with defaults filled in, as hex."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()

    def tasks(self, client: str | None) -> Tasks:
        """The task as a device has it; None: the server's own copy."""
        index = -1 if client is None else self.clients.index(client)
        given = {"device_index": index, "devices": len(self.clients), "seed": self.testbed.seed}
        return {self.task.name: (self.task.entry, {**self.task.options, **given})}

    def with_seed(self, seed: int) -> "Testbed":
        """The same testbed, another seed."""
        return msgspec.structs.replace(self, testbed=msgspec.structs.replace(self.testbed, seed=seed))

    def scenario(self, run: str) -> Scenario:
        """One of `RUNS`, as the report tells of it."""
        method = self._method(run)
        rule = str(method.get("rule", "as set"))
        return Scenario(run, rule, run != "clean", str(method["name"]), len(self.clients), len(self.liars))

    def plan(self, run: str) -> str:
        """The plan of one of `RUNS`: everybody takes part in every round, so that a run can be done again to the last bit."""
        bed, everybody = self.testbed, len(self.clients)
        cohort = {"size": everybody, "quorum": everybody, "over_select": 1.0, **msgspec.to_builtins(self.cohort)}
        return toml(
            {
                "run": {"name": run, "rounds": bed.rounds, "task": self.task.name, "seed": bed.seed},
                "cohort": cohort,
                "method": self._method(run),
            }
        )

    def cuts(self, number: int) -> dict[str, float]:
        """Seconds off the network, by client, in a round."""
        found: dict[str, float] = {}
        for part in self.partition:
            for client in part.cut_in(number):
                found[client] = max(part.seconds, found.get(client, 0.0))
        return found

    def _method(self, run: str) -> dict[str, Any]:
        if run != "defended":
            return self.method
        told = registry.method(str(self.method.get("name"))).settings.__struct_fields__
        liars = {"liars": len(self.liars)} if "liars" in told else {}
        return {**self.method, **liars, **self.defence}


def load(path: Path) -> Testbed:
    """The file; `ConfigError` names what is wrong in it, plans and names of clients included."""
    bed = convert(read_toml(path), Testbed, str(path))
    return checked(bed, str(path))


def checked(bed: Testbed, source: str) -> Testbed:
    """The testbed, if its parts fit together."""
    if len(bed.clients) > MOST_NODES:
        raise ConfigError(f"{source}: {len(bed.clients)} devices; at most {MOST_NODES}", field="testbed.honest")
    if not re.fullmatch(r"[\w.]+:\w+", bed.task.entry):
        raise ConfigError(f'{source}: task.entry = {bed.task.entry!r}; expected "package.module:function"', field="task.entry")
    for part in bed.partition:
        for client in part.clients:
            if client not in bed.clients:
                raise ConfigError(
                    f"{source}: a partition of {client!r}, who is none of the devices{suggest(client, list(bed.clients))}",
                    field="partition.clients",
                )
        if not part.clients:
            raise ConfigError(f"{source}: a partition of nobody; name clients", field="partition.clients")
    for run in RUNS:
        parse_plan(bed.plan(run), registry.method, f"{source}, run {run}")
    return bed
