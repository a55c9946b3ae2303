"""The device owner's word, in `policy.toml`. What it does not allow does not happen, whatever the server says.

```toml
allowed_methods = ["fedavg"]      # "*" for every method this package has
allowed_tasks = ["digits"]        # "*" for every task in client.toml
allowed_roots = []                # SHA-256 fingerprints (hex) of roots; empty: those of the enrolment
rounds_per_day = 200              # rounds this device starts per UTC day
allow_unmasked = false            # whether an update may leave that the server can read on its own
allow_peers = false               # whether other devices may read it too, for methods in which they do
max_payload_bytes = 67108864      # largest model in, largest update out

[budgets.patients]                # a data set: the most that may ever be learnt about one record of it, over all runs
max_epsilon = 6.0
delta = 1e-5
```

A data set with a budget is for methods that charge the privacy ledger, and for them alone; without one they have nothing to
charge, and do not run either.

Fail closed: without the file the daemon does not start, and a file that breaks later stops all work until it is mended.
"""

import os
from pathlib import Path
from typing import Annotated

import msgspec

from edgehold.core.config import Config, convert, read_toml
from edgehold.core.errors import ConfigError, PolicyRefused
from edgehold.core.plan import Name

Word = Annotated[str, msgspec.Meta(pattern=r"^(\*|[a-z0-9][a-z0-9_-]{0,63})$")]
Fingerprint = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{64}$")]


class BudgetTable(Config, frozen=True, kw_only=True):
    """[budgets.DATASET]: bound on everything that is ever released about one record of the data set."""

    max_epsilon: Annotated[float, msgspec.Meta(gt=0, le=1000)]
    delta: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-5


class Policy(Config, frozen=True, kw_only=True):
    """A whole policy.toml. The lists of methods and tasks must be stated; the other defaults are cautious."""

    allowed_methods: tuple[Word, ...]
    allowed_tasks: tuple[Word, ...]
    allowed_roots: tuple[Fingerprint, ...] = ()
    rounds_per_day: Annotated[int, msgspec.Meta(ge=0)] = 200
    allow_unmasked: bool = False
    allow_peers: bool = False
    max_payload_bytes: Annotated[int, msgspec.Meta(ge=1)] = 64 << 20
    budgets: dict[Name, BudgetTable] = msgspec.field(default_factory=dict)

    def admit(self, task: Name, method: str, masked: bool, base_length: int) -> None:
        """Return if the owner allows such a task, else raise the `PolicyRefused` that names the key which forbids it."""
        if "*" not in self.allowed_methods and method not in self.allowed_methods:
            raise PolicyRefused(f"method {method!r} is not in allowed_methods")
        if "*" not in self.allowed_tasks and task not in self.allowed_tasks:
            raise PolicyRefused(f"task {task!r} is not in allowed_tasks")
        if not masked and not self.allow_unmasked:
            raise PolicyRefused("the update would travel unmasked and allow_unmasked is false")
        self.admit_length(base_length, "the model")

    def admit_peers(self, method: str) -> None:
        """Return if other devices may read this one's updates, as the method has it, else raise `PolicyRefused`."""
        if not self.allow_peers:
            raise PolicyRefused(f"other devices would read this one's updates (method {method!r}) and allow_peers is false")

    def budget(self, dataset: str, method: str, charges: bool) -> BudgetTable | None:
        """The data set's budget for a method that charges the ledger, None for one that does not and meets none.

        `PolicyRefused` for a private method without a budget to charge, and for any other on data that have one.
        """
        found = self.budgets.get(dataset)
        if charges and found is None:
            raise PolicyRefused(
                f"method {method!r} spends a privacy budget and the policy has none for this data set: [budgets.NAME]"
            )
        if found is not None and not charges:
            raise PolicyRefused(
                f"this data set has a privacy budget; method {method!r} adds no noise here that could be charged"
            )
        return found

    def admit_length(self, length: int, what: str) -> None:
        """Return if a payload of `length` bytes may be held, else raise `PolicyRefused`."""
        if length > self.max_payload_bytes:
            raise PolicyRefused(f"{what} has {length} bytes; max_payload_bytes allows {self.max_payload_bytes}")

    def admit_roots(self, fingerprints: list[str]) -> None:
        """Return if every trusted root is allowed, else raise `PolicyRefused`. fingerprints: lower-case hex."""
        allowed = {root.lower() for root in self.allowed_roots}
        foreign = [root for root in fingerprints if root not in allowed]
        if allowed and foreign:
            raise PolicyRefused(f"root {foreign[0]} is trusted here but is not in allowed_roots")


def load_policy(path: Path) -> Policy:
    """The file as a `Policy`; `ConfigError` when it is missing or wrong."""
    if not path.exists():
        raise ConfigError(f"{path}: no policy; the device owner writes one (`fl-client enroll` leaves a commented default)")
    return convert(read_toml(path), Policy, str(path))


class PolicyFile:
    """The policy as it stands now: read again whenever the file changes."""

    def __init__(self, path: Path) -> None:
        """Read the file; `ConfigError` when it is missing or wrong."""
        self._path = path
        self._stamp = self._look()
        self._policy: Policy | ConfigError = load_policy(path)

    def current(self) -> Policy:
        """The policy in force; `PolicyRefused` while the file is missing or broken."""
        stamp = self._look()
        if stamp != self._stamp:
            self.reload()
        if isinstance(self._policy, ConfigError):
            raise PolicyRefused("the policy file of the device cannot be read; nothing is allowed until it is mended")
        return self._policy

    def reload(self) -> ConfigError | None:
        """Read the file now, whatever its time stamp says; returns what is wrong with it, if anything."""
        self._stamp = self._look()
        try:
            self._policy = load_policy(self._path)
        except ConfigError as error:
            self._policy = error
            return error
        return None

    def _look(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self._path)
        except OSError:
            return (0, 0, 0)
        return (found.st_mtime_ns, found.st_size, found.st_ino)


def template(allow_unmasked: bool) -> str:
    """A first policy.toml with every key explained."""
    return f"""\
# The owner of this device decides what may happen on it. A task that breaks a line below is declined, and the server is
# told which one. The daemon reads this file again whenever it changes; without it, or while it is broken, nothing runs.

# Methods that may run: names as `fl-server` plans use them, or "*" for all that this package has.
allowed_methods = ["*"]

# Tasks of client.toml that may be used, or "*".
allowed_tasks = ["*"]

# SHA-256 fingerprints (hex) of the roots this device may trust. Empty: those it was enrolled with.
allowed_roots = []

# Rounds this device starts per day (UTC).
rounds_per_day = 200

# Whether an update may leave that the server can read on its own (true), or only sums over many devices (false).
allow_unmasked = {str(allow_unmasked).lower()}

# Whether other devices may read this one's updates, for methods in which devices read each other (docs/peers.md).
allow_peers = false

# Largest model that comes in and largest update that goes out, in bytes.
max_payload_bytes = {64 << 20}

# Privacy budgets, by data set (in client.toml: dataset of a task, or the task's own name). What is released about one record,
# over all runs and methods, stays within (max_epsilon, delta); every release is charged in ledger.db before it exists
# (`fl-client ledger`). A data set that has a budget is for methods that add noise, and for them alone.
#
# [budgets.patients]
# max_epsilon = 6.0
# delta = 1e-5
"""
