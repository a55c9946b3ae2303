"""The shaper as a process of ours: started for some namespaces, told what each device's link is like, ended."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgehold.attacks.multinode.config import Link
from edgehold.attacks.multinode.shaper import READY, tell

CONTROL = "links.sock"
LOG = "links.log"


class Links:
    """folder: for its socket and what it says. specs: node -> (file of its network namespace, its address)."""

    def __init__(self, folder: Path, specs: Mapping[str, tuple[str, str]], seed: int) -> None:
        self.control, log = folder / CONTROL, folder / LOG
        nodes = [f"{node}={namespace}@{address}" for node, (namespace, address) in specs.items()]
        module = "edgehold.attacks.multinode.shaper"
        command = [sys.executable, "-m", module, "--socket", str(self.control), "--seed", str(seed), *nodes]
        with log.open("ab") as file:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, text=True)
        assert self._child.stdout is not None
        if self._child.stdout.readline().strip() != READY:
            self.close()
            raise RuntimeError(f"links cannot be shaped here: {log.read_text()[-500:]}")

    @staticmethod
    def why_not() -> str:
        """What keeps us from shaping links on this machine, as far as can be told beforehand; "" for nothing."""
        if os.geteuid():
            return "that needs root"
        return "" if shutil.which("iptables") else "iptables is not installed"

    def set(self, client: str, link: Link) -> None:
        """What a device's link is like from now on, each way."""
        tell(self.control, {"op": "set", "node": client, "link": msgspec.to_builtins(link)})

    def cut(self, client: str) -> None:
        """Nothing gets through from now on."""
        tell(self.control, {"op": "cut", "node": client})

    def heal(self, client: str) -> None:
        """As before the cut."""
        tell(self.control, {"op": "heal", "node": client})

    def close(self) -> None:
        """Packets pass by themselves again."""
        self._child.terminate()
        self._child.wait()
        if self._child.stdout:
            self._child.stdout.close()
