"""Everybody calls at once, strangers too: the server stays up."""

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgehold.attacks.testbed import Federation

HANDSHAKES = 1000
AT_ONCE = 24


def test_a_storm_of_handshakes_does_not_end_the_server(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])

    def knock(address: tuple[str, int]) -> bool:
        """A handshake without a client certificate; the server's certificate is all that comes of it."""
        try:
            with socket.create_connection(address, timeout=30) as plain, context.wrap_socket(plain) as link:
                return link.version() is not None
        except OSError:
            return False

    with Federation(tmp_path) as bed:
        bed.start_server()
        for listener in ("server", "enrol"):
            host, _, port = bed.addresses[listener].rpartition(":")
            with ThreadPoolExecutor(AT_ONCE) as pool:
                answers = list(pool.map(knock, [(host, int(port))] * HANDSHAKES))
            assert bed.daemon.alive, bed.daemon.log.read_text(encoding="utf-8")
            assert any(answers)
            assert bed.connected() == 0
