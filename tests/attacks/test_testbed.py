"""Ports of a federation on one machine: they stay free while its server is down."""

import secrets
import socket
from pathlib import Path

import pytest

from edgehold.attacks.testbed import free_ports

GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""What Linux gives to connections."""


@pytest.mark.skipif(not GIVEN.is_file(), reason="only Linux says which ports it gives to connections")
def test_no_connection_is_given_the_port_of_a_server_that_is_down() -> None:
    lowest = int(GIVEN.read_text().split()[0])
    for _ in range(50):
        ports = free_ports(4)
        assert len(ports) == 4
        assert ports[-1] < lowest


def test_ports_in_use_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        (first,) = free_ports(1)
        taken.bind(("127.0.0.1", first))
        other = free_ports(2)
        # Drawn in turn: the port itself; the one below, so that the second of two is taken; others.
        drawn = iter([first, first - 1, other[0]])
        monkeypatch.setattr(secrets, "randbelow", lambda _: next(drawn) - 10_000)
        assert free_ports(2) == other
        with pytest.raises(StopIteration):
            next(drawn)
