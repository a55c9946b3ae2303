"""Packets of a network namespace, held in user space: the kernel's NFQUEUE, spoken to over netlink. Linux, root, IPv4.

An iptables rule hands every packet that arrives in the namespace (on any interface but lo) to queue `QUEUE`; whoever listens
says of each whether the kernel goes on with it. Only its first bytes are copied. Shaped is what arrives, never what leaves: a
packet held on its sender's side stays charged to the sending socket, and TCP slows to a crawl.
"""

import contextlib
import ctypes
import errno
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

QUEUE = 7

_CLONE_NEWNET = 0x40000000
_NETLINK_NETFILTER = 12
_SOL_NETLINK, _NO_ENOBUFS = 270, 5
_RCVBUFFORCE = 33
_SUBSYSTEM = 3  # nfnetlink_queue
_PACKET, _VERDICT, _CONFIG = 0, 1, 2
_REQUEST, _ACK = 1, 4
_A_HEADER, _A_VERDICT, _A_PAYLOAD = 1, 2, 10
_CFG_COMMAND, _CFG_COPY, _CFG_LENGTH = 1, 2, 3
_BIND, _COPY_PACKET = 1, 2
_DROP, _ACCEPT = 0, 1
_COPIED = 40
_LONGEST = 65536
_GONE = (errno.ENOENT, errno.ENOBUFS, errno.EAGAIN)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Packet:
    """number: the kernel's name for it; source: its sender's address; size: in bytes."""

    number: int
    source: str
    size: int


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread, in another network namespace (a file such as /run/netns/NAME or /proc/PID/ns/net) for a while."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        there = os.open(namespace, os.O_RDONLY)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


class PacketQueue:
    """Everything that arrives in one namespace. `OSError` where the kernel has no NFQUEUE or we may not use it."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        with inside(namespace):
            self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 64 << 20)
                self.socket.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
                self.socket.bind((0, 0))
                self._configure(_CFG_COMMAND, struct.pack("=BBH", _BIND, 0, socket.htons(socket.AF_INET)))
                self._configure(_CFG_COPY, struct.pack("!IB", _COPIED, _COPY_PACKET))
                self._configure(_CFG_LENGTH, struct.pack("!I", _LONGEST))
                self._rule("-A")
            except BaseException:
                self.socket.close()
                raise
        self.socket.setblocking(False)

    def receive(self) -> Iterator[Packet]:
        """What has come since the last time, at most 64 messages of it."""
        for _ in range(64):
            try:
                data = self.socket.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # some were lost, as on any full link
                    continue
                raise
            offset = 0
            while offset + 16 <= len(data):
                length, kind = struct.unpack_from("=IH", data, offset)
                if kind == _SUBSYSTEM << 8 | _PACKET:
                    yield _parse(data[offset + 20 : offset + length])
                offset += length + (-length % 4)

    def accept(self, packet: int) -> None:
        """The kernel goes on with it."""
        self._verdict(packet, _ACCEPT)

    def drop(self, packet: int) -> None:
        """It is lost."""
        self._verdict(packet, _DROP)

    def close(self) -> None:
        """Packets pass again by themselves; nothing to do where the namespace is gone."""
        with contextlib.suppress(OSError, subprocess.CalledProcessError), inside(self._namespace):
            self._rule("-D")
        self.socket.close()

    def _verdict(self, packet: int, verdict: int) -> None:
        try:
            self.socket.send(_message(_VERDICT, _attribute(_A_VERDICT, struct.pack("!II", verdict, packet))))
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def _configure(self, kind: int, data: bytes) -> None:
        self.socket.send(_message(_CONFIG, _attribute(kind, data), _REQUEST | _ACK))
        (code,) = struct.unpack_from("=i", self.socket.recv(_LONGEST), 16)
        if code:
            raise OSError(-code, f"the kernel's packet queue: {os.strerror(-code)}")

    def _rule(self, action: str) -> None:
        # --queue-bypass: should we be killed outright, packets pass.
        rule = ["!", "-i", "lo", "-j", "NFQUEUE", "--queue-num", str(QUEUE), "--queue-bypass"]
        command = ["iptables", "-w", "-t", "mangle", action, "PREROUTING", *rule]
        subprocess.run(command, check=True, capture_output=True, text=True)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def _message(kind: int, body: bytes, flags: int = _REQUEST) -> bytes:
    payload = struct.pack("=BBH", socket.AF_UNSPEC, 0, socket.htons(QUEUE)) + body
    return struct.pack("=IHHII", len(payload) + 16, _SUBSYSTEM << 8 | kind, flags, 0, 0) + payload


def _parse(body: bytes) -> Packet:
    number, source, size, offset = 0, "", 0, 0
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if kind == _A_HEADER:
            (number,) = struct.unpack_from("!I", body, offset + 4)
        elif kind == _A_PAYLOAD:
            head = body[offset + 4 : offset + length]
            if len(head) >= 20 and head[0] >> 4 == 4:
                source = socket.inet_ntoa(head[12:16])
                (size,) = struct.unpack_from("!H", head, 2)
        offset += length + (-length % 4)
    return Packet(number, source, size)
