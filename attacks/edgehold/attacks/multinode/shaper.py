"""The process that shapes links: `python -m edgehold.attacks.multinode.shaper --socket CTL --seed N NODE=NAMESPACE@ADDRESS...`

For kernels without netem as for those with it. One process holds all nodes' packets. The star's links are those between
"server" and each other node: an order about a node is about both directions, what the node receives and what the server
receives from it. Orders come over a local socket, a JSON line each, and are answered by one:

    {"op": "set", "node": "dev-3", "link": {"delay_ms": 50}}    {"op": "cut", "node": "dev-3"}    heal    show    stop
"""

import argparse
import contextlib
import heapq
import json
import random
import selectors
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgehold.attacks.multinode.config import Link
from edgehold.attacks.multinode.packets import PacketQueue
from edgehold.attacks.multinode.shaping import Direction

SERVER = "server"
READY = "shaping"
_ANSWER_S = 5.0


@dataclass
class Node:
    """One shaped node. directions: by the sender's address; down: what a node receives from anybody."""

    address: str
    queue: PacketQueue
    directions: dict[str, Direction] = field(default_factory=dict)
    down: Direction = field(default_factory=Direction)
    seen: int = 0
    lost: int = 0

    def direction(self, source: str) -> Direction:
        """That a packet came by."""
        return self.directions.get(source, self.down)


class Shaper:
    """All nodes of a testbed. specs: node -> (namespace file, address)."""

    def __init__(self, specs: Mapping[str, tuple[str, str]], seed: int) -> None:
        self._rng = random.Random(seed)
        self._held: list[tuple[float, int, PacketQueue, int]] = []
        self._count = 0
        self.running = True
        self.nodes: dict[str, Node] = {}
        try:
            for name, (namespace, address) in specs.items():
                self.nodes[name] = Node(address, PacketQueue(namespace))
        except BaseException:
            self.close()
            raise
        if SERVER in self.nodes:
            others = [node.address for name, node in self.nodes.items() if name != SERVER]
            self.nodes[SERVER].directions = {address: Direction() for address in others}

    def order(self, order: Mapping[str, Any]) -> Any:
        """Carry an order out; `ValueError` says what is wrong with it."""
        op = order.get("op")
        if op == "stop":
            self.running = False
            return "ok"
        if op == "show":
            return {name: self._shown(name) for name in self.nodes if name != SERVER}
        name = str(order.get("node"))
        if name not in self.nodes or name == SERVER:
            raise ValueError(f"no device {name!r}; there are {', '.join(n for n in self.nodes if n != SERVER)}")
        for direction in self._both(name):
            if op == "set":
                direction.link = msgspec.convert(order["link"], Link)
            elif op in ("cut", "heal"):
                direction.cut = op == "cut"
            else:
                raise ValueError(f"no such order: {op!r}")
        return "ok"

    def take(self, node: Node, now: float) -> None:
        """Decide about what has come to a node."""
        for packet in node.queue.receive():
            node.seen += 1
            when = node.direction(packet.source).arrival(packet.size, now, self._rng)
            if when is None:
                node.lost += 1
                node.queue.drop(packet.number)
            elif when <= now:
                node.queue.accept(packet.number)
            else:
                self._count += 1
                heapq.heappush(self._held, (when, self._count, node.queue, packet.number))

    def release(self, now: float) -> None:
        """Let go of what is due."""
        while self._held and self._held[0][0] <= now:
            _, _, queue, packet = heapq.heappop(self._held)
            queue.accept(packet)

    def wait_s(self, now: float) -> float:
        """Seconds until something is due."""
        return min(0.5, max(0.0, self._held[0][0] - now)) if self._held else 0.5

    def close(self) -> None:
        """Everything passes again."""
        for node in self.nodes.values():
            node.queue.close()

    def _both(self, name: str) -> tuple[Direction, ...]:
        up = self.nodes[SERVER].directions[self.nodes[name].address] if SERVER in self.nodes else None
        return (self.nodes[name].down, up) if up is not None else (self.nodes[name].down,)

    def _shown(self, name: str) -> dict[str, Any]:
        """As it receives: what is lost on the way to the server is counted there."""
        node = self.nodes[name]
        return {"seen": node.seen, "lost": node.lost, "cut": node.down.cut, "link": msgspec.to_builtins(node.down.link)}


def serve(control: Path, shaper: Shaper) -> None:
    """Shape until told to stop, by order or by signal."""

    def end(*_: object) -> None:
        shaper.running = False

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    control.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, selectors.DefaultSelector() as chooser:
        listener.bind(str(control))
        listener.listen()
        control.chmod(0o600)
        chooser.register(listener, selectors.EVENT_READ, None)
        for node in shaper.nodes.values():
            chooser.register(node.queue.socket, selectors.EVENT_READ, node)
        print(READY, flush=True)
        while shaper.running:
            wait = shaper.wait_s(time.monotonic())
            # select() rounds up to whole milliseconds: sleep short of it, then poll.
            for key, _ in chooser.select(wait - 0.001 if wait > 0.001 else 0):
                if key.data is None:
                    _answer(listener, shaper)
                else:
                    shaper.take(key.data, time.monotonic())
            shaper.release(time.monotonic())
        shaper.release(float("inf"))
    control.unlink(missing_ok=True)


def _answer(listener: socket.socket, shaper: Shaper) -> None:
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError):
        connection.settimeout(_ANSWER_S)
        try:
            answer = shaper.order(json.loads(connection.makefile().readline()))
        except (ValueError, KeyError, TypeError, msgspec.ValidationError) as error:
            answer = {"error": str(error)}
        connection.sendall(json.dumps(answer).encode() + b"\n")


def tell(control: Path, order: Mapping[str, Any]) -> Any:
    """Give a running shaper an order; its answer, or `ValueError` with what it objects to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_S)
        connection.connect(str(control))
        connection.sendall(json.dumps(order).encode() + b"\n")
        answer = json.loads(connection.makefile().readline())
    if isinstance(answer, dict) and set(answer) == {"error"}:
        raise ValueError(answer["error"])
    return answer


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("nodes", nargs="+", metavar="NODE=NAMESPACE@ADDRESS")
    given = parser.parse_args()
    specs: dict[str, tuple[str, str]] = {}
    for spec in given.nodes:
        name, _, rest = spec.partition("=")
        namespace, _, address = rest.rpartition("@")
        specs[name] = (namespace, address)
    shaper = Shaper(specs, given.seed)
    try:
        serve(given.socket, shaper)
    finally:
        shaper.close()


if __name__ == "__main__":
    main()
