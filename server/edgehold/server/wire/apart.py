"""`fl-server enrolment`: the enrolment key in a process of its own, out of the reach of the one that carries the rounds."""

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

from edgehold.core import keys
from edgehold.core.errors import IdentityError
from edgehold.core.identity import Identity
from edgehold.server.config import ServerConfig
from edgehold.server.identity.ca import CertificateAuthority
from edgehold.server.identity.tokens import Tokens
from edgehold.server.wire.enrolment import Issuer, own_tls, start_enrolment, start_renewal

log = logging.getLogger("edgehold.server.wire.enrolment")

GRACE_S = 1.0
SERVER_KEY = "server-signing.pub"


def server_signing_key(ca: Path) -> bytes:
    """The server's public signing key (32 bytes), which every device learns when it enrols; kept beside the authority."""
    try:
        return bytes.fromhex((ca / SERVER_KEY).read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise IdentityError(f"{ca / SERVER_KEY}: {error}; copy it from the ca folder that `fl-server init` made") from None


async def serve_enrolment(home: Path, config: ServerConfig, ready: Callable[[dict[str, str]], None]) -> None:
    """Enrol and renew until told to stop. ready: called with the addresses once both listeners are up.

    The roster is the server's: a revoked client may renew here, and is refused there.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    authority = CertificateAuthority(config.ca_folder(home))
    public = server_signing_key(authority.folder)
    tls = own_tls(authority, config.server.name, keys.fingerprint(public), config.server.host_names)
    tokens = Tokens(authority.folder)

    def may_renew(identity: Identity) -> None:
        """Everybody with a valid certificate."""

    try:
        issuer = Issuer(authority, tokens, public, config.limits.certificate_life_s, broken=lambda error: stop.set())
        enrol, enrol_port = await start_enrolment(issuer, config.server.enrol_listen, tls)
        renew, renew_port = await start_renewal(issuer, config.server.renew_listen, tls, may_renew)
        host = config.server.advertise_host
        ready({"enrol": f"{host}:{enrol_port}", "renew": f"{host}:{renew_port}"})
        await stop.wait()
        log.info("stopping")
        await asyncio.gather(enrol.stop(GRACE_S), renew.stop(GRACE_S))
    finally:
        tokens.close()
