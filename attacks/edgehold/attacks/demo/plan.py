"""The three runs: who takes part, who lies, what the server does about it."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgehold.attacks.testbed import Tasks

TASK = "digits"
ENTRY = "edgehold.client.data.digits:make_task"
CLIENTS = tuple(f"dev-{i}" for i in range(8))
LIARS = CLIENTS[:2]
LIE = ("edgehold.attacks.byzantine.sign_flip:make", {"scale": 5.0})


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command is told. rounds: of each run; seeds: a federation each; alpha: of the split, small is uneven."""

    rounds: int
    seeds: Sequence[int]
    alpha: float

    def tasks(self, seed: int, device_index: int) -> Tasks:
        """The task as one device has it; -1: the server's copy, which has the test records only."""
        options = {"device_index": device_index, "devices": len(CLIENTS), "alpha": self.alpha, "seed": seed}
        return {TASK: (ENTRY, options)}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. lied: whether the liars lie in it; method, clients, liars: for whoever tells of it."""

    name: str
    rule: str
    lied: bool
    method: str = "fedavg"
    clients: int = len(CLIENTS)
    liars: int = len(LIARS)

    def plan(self, rounds: int, seed: int) -> str:
        """The run plan, as an operator would write it."""
        return f"""\
[run]
name = "{self.name}"
rounds = {rounds}
task = "{TASK}"
seed = {seed}

[cohort]
size = {len(CLIENTS)}
quorum = {len(CLIENTS)}
over_select = 1.0
join_deadline_s = 30.0
round_deadline_s = 60.0
max_attempts = 2

[method]
name = "fedavg"
rule = "{self.rule}"
liars = {len(LIARS) if self.rule != "average" else 0}
local_epochs = 5
learning_rate = 0.05
momentum = 0.9
"""


SCENARIOS = (
    Scenario("clean", "average", False),
    Scenario("attacked", "average", True),
    Scenario("defended", "trimmed_mean", True),
)
