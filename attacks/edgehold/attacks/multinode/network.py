"""Several hosts on one machine: a network namespace each, on a switch in a namespace of its own. Linux, root, iproute2.

The switch is not in the machine's own namespace: no address, route, bridge or iptables rule of the machine is touched.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgehold.attacks.multinode.backend import NotPossible
from edgehold.attacks.multinode.packets import PacketQueue

SUBNET = "10.77.0"


def ip(*words: str) -> str:
    """`ip WORDS`; `RuntimeError` with what it said."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def why_not(shaped: bool) -> str:
    """What keeps this machine from carrying network namespaces (and, where asked, from shaping them); "" for nothing."""
    wanted = ("ip", "nsenter", *(("iptables",) if shaped else ()))
    if missing := [name for name in wanted if shutil.which(name) is None]:
        return f"{', '.join(missing)} not installed (Debian: iproute2, util-linux, iptables)"
    if os.geteuid():
        return "network namespaces need root"
    name = f"eh-probe-{os.getpid()}"
    try:
        ip("netns", "add", name)
    except RuntimeError as error:
        return f"network namespaces are not permitted here: {error}"
    try:
        ip("-n", name, "link", "add", "br0", "type", "bridge")
        ip("-n", name, "link", "add", "name", "eth0", "type", "veth", "peer", "name", "p1")
        if shaped:
            PacketQueue(f"/run/netns/{name}").close()
    except RuntimeError as error:
        return f"this kernel has no bridge or veth, or they are not permitted: {error}"
    except (OSError, subprocess.CalledProcessError) as error:
        return f"packets cannot be held here (NFQUEUE): {getattr(error, 'stderr', '') or error}".strip()
    finally:
        with contextlib.suppress(RuntimeError):
            ip("netns", "del", name)
    return ""


@dataclass
class Network:
    """name: at most six letters, so that names of namespaces are unique on this machine; nodes: the first is `SUBNET`.1."""

    name: str
    nodes: Sequence[str]
    _made: list[str] = field(default_factory=list)

    def up(self, shaped: bool) -> None:
        """Make it; `NotPossible` where this machine cannot."""
        if reason := why_not(shaped):
            raise NotPossible(reason)
        self._add(self.switch)
        ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        ip("-n", self.switch, "link", "set", "br0", "up")
        for node in self.nodes:
            namespace, port = self.namespace(node), self._port(node)
            self._add(namespace)
            ip("link", "add", "eth0", "netns", namespace, "type", "veth", "peer", "name", port, "netns", self.switch)
            ip("-n", self.switch, "link", "set", port, "master", "br0", "up")
            ip("-n", namespace, "addr", "add", f"{self.address(node)}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "link", "set", "eth0", "up")

    def down(self) -> None:
        """Take it away again; processes in it are left alone."""
        while self._made:
            with contextlib.suppress(RuntimeError):
                ip("netns", "del", self._made.pop())

    @property
    def switch(self) -> str:
        """Namespace of the switch."""
        return f"eh-{self.name}-sw"

    def namespace(self, node: str) -> str:
        """Namespace of a node."""
        return f"eh-{self.name}-n-{node}"

    def file(self, node: str) -> str:
        """Where the kernel shows it."""
        return f"/run/netns/{self.namespace(node)}"

    def address(self, node: str) -> str:
        """A node's address."""
        return f"{SUBNET}.{self.nodes.index(node) + 1}"

    def inside(self, node: str) -> tuple[str, ...]:
        """What stands before a command so that it runs on a node: it then is that process, not its child."""
        return ("nsenter", f"--net={self.file(node)}", "--")

    def _port(self, node: str) -> str:
        return f"p{self.nodes.index(node) + 1}"

    def _add(self, namespace: str) -> None:
        ip("netns", "add", namespace)
        self._made.append(namespace)
