"""How a server listens: transport limits, and TLS whose keys, chain and trusted roots are read anew for every handshake."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from edgehold.core.errors import ConfigError, FlError, IdentityError
from edgehold.core.identity import Identity, identity_of
from edgehold.core.keys import load_version
from edgehold.proto.channel import options

log = logging.getLogger("edgehold.proto.listen")

HANDSHAKE_S = 10
SETTLE_S = 0.1
"""Before TLS files are exchanged, handshakes that took the old ones get this long to have begun."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What one handshake needs, PEM: our key and chain, and the roots that clients' certificates must come from."""

    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    roots_pem: bytes


def server_options(max_streams: int = 8, max_connections: int | None = None) -> list[tuple[str, int]]:
    """Channel arguments of a listener (security model, section 3). max_connections: None for no limit."""
    limits = [
        ("grpc.max_concurrent_streams", max_streams),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_S * 1000),
        ("grpc.so_reuseport", 0),
        ("grpc.enable_channelz", 0),
        # Clients ping every 60 s, with or without a call; more than one ping per 30 s ends the connection.
        ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", 300_000),
        # gRPC adds the jitter (10%) itself. Calls under way may finish: resuming an upload is dearer than waiting for it.
        ("grpc.max_connection_age_ms", 3_600_000),
        ("grpc.max_connection_age_grace_ms", 600_000),
    ]
    if max_connections is not None:
        limits.append(("grpc.max_allowed_incoming_connections", max_connections))
    return [*options(), *limits]


def server_credentials(read: Callable[[], Tls], *, client_certificates: bool) -> grpc.ServerCredentials:
    """TLS 1.2 or newer from what `read` returns, called for every handshake, so that rotation needs no restart.

    client_certificates: demand one that chains to `roots_pem`. read: runs on gRPC's threads, must not block for long; what it
    raises at the start is raised here. Later a failure is logged and what was read last stays in force: a disk in trouble
    must not lock the whole federation out.

    A TLS session can be resumed until the next rotation, which is why every gate looks at the certificate's end itself.
    """
    last = read()

    def configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(last.key_pem, last.chain_pem)], last.roots_pem if client_certificates else None
        )

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal last
        try:
            found = read()
        except (FlError, OSError) as error:
            log.error("TLS files cannot be read, the last ones stay in force: %s", error)
            return None
        if found == last:
            return None
        # gRPC frees the old configuration although a handshake that asked before us may just be starting from it, and then
        # the process dies (grpc issue 36693). It asks one handshake at a time, so those before us start while we wait here.
        time.sleep(SETTLE_S)
        last = found
        return configuration()

    # None means unchanged, which the type stubs do not know.
    return grpc.dynamic_ssl_server_credentials(configuration(), changed, client_certificates)  # type: ignore[arg-type]


async def start(
    handlers: Sequence[grpc.GenericRpcHandler], address: str, credentials: grpc.ServerCredentials, limits: list[tuple[str, int]]
) -> tuple[grpc.aio.Server, int]:
    """A running server and its port. address: host:port, port 0 for any; limits: `server_options(...)`.

    `ConfigError` when the address is taken or not ours.
    """
    server = grpc.aio.server(handlers=handlers, options=limits)
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError:
        # gRPC tells the reason on stderr only.
        raise ConfigError(f"cannot listen on {address}; is the address this host's, and is the port free?") from None
    await server.start()
    return server, port


def from_folder(folder: Path, roots: Callable[[], bytes]) -> Callable[[], Tls]:
    """Reader for a folder written by `CertificateAuthority.equip`. roots: trusted roots, PEM, asked for every handshake."""

    def read() -> Tls:
        found = load_version(folder, ["tls.key"], ["tls.pem"])
        return Tls(found["tls.key"], found["tls.pem"], roots())

    return read


def peer_identity(context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
    """Whose certificate the handshake verified; `IdentityError` when there is none."""
    for pem in context.auth_context().get("x509_pem_cert", ()):
        return identity_of(pem)
    raise IdentityError("no client certificate was presented")
