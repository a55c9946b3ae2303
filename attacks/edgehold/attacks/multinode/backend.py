"""What a testbed runs on, as the runs see it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgehold.core.errors import ConfigError

OnRound = Callable[[int, Mapping[str, float]], None]
"""(number of a committed round, its facts); a round is told again once it is scored."""


class NotPossible(ConfigError):
    """This machine cannot carry the backend. The message says what is missing; commands end with exit code `SKIP`."""


SKIP = 77
"""Exit code for "cannot be done here", as test drivers know it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended. state: "finished" or what else; seconds: of its rounds."""

    state: str
    seconds: float
    error: str


class Backend(Protocol):
    """One testbed of processes, namespaces or containers."""

    def up(self) -> None:
        """Server and all devices run, enrolled and connected, all honest. `NotPossible` before anything is started."""

    def turn(self) -> None:
        """The liars restart under the identities they have, with their [adversary] table."""

    def run(self, name: str, plan: str, on_round: OnRound) -> Ended:
        """Submit a plan and follow it to its end."""

    def fetch(self, run: str, path: Path) -> None:
        """The newest model of a run as a safetensors file."""

    def export(self, run: str, folder: Path) -> None:
        """The newest model of a run as the signed folder with an ONNX graph that devices run."""

    def deploy(self, folder: Path, client: str) -> str:
        """Have a device check such a folder and put its model in force; returns the digest of the manifest it took."""

    def cut(self, client: str) -> None:
        """Take a device off the network; `NotPossible` where devices have no links of their own."""

    def heal(self, client: str) -> None:
        """And put it back."""

    def logs(self, folder: Path) -> None:
        """What every node said, a file each."""

    def down(self) -> None:
        """Take everything away again, however far it got."""
