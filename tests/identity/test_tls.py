"""Handshakes: who gets through, and rotation without restart."""

import asyncio
import socket
import ssl
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edgehold.client.enrol import enrol, renew
from edgehold.client.identity import Credentials, channel
from edgehold.core import keys
from edgehold.core.errors import IdentityError, TransferError
from edgehold.proto.channel import Stub, options
from edgehold.proto.listen import Tls, from_folder, server_credentials, server_options
from edgehold.proto.v1 import enrolment_pb2 as pb
from edgehold.server.identity.ca import trusted_pem

if TYPE_CHECKING:
    from tests.identity.conftest import Place

RENEWAL = pb.DESCRIPTOR.services_by_name["RenewalService"]


async def knock(place: "Place", credentials: Credentials) -> None:
    """A renewal on a connection of its own, so that a handshake takes place."""
    async with channel(credentials, place.renew_address) as link:
        ask = pb.RenewRequest(csr=keys.make_csr(keys.new_tls_key()))
        await Stub(link, RENEWAL).unary("Renew", ask, pb.RenewResponse)


async def shut(place: "Place", credentials: Credentials) -> None:
    """The handshake must fail, before any of our code hears of the call."""
    with pytest.raises(TransferError, match="UNAVAILABLE"):
        await knock(place, credentials)


def test_only_certificates_of_our_root_within_their_time_and_for_client_use_get_through(place: "Place", other: "Place") -> None:
    heard: list[object] = []
    place.roster = heard.append

    async def body() -> None:
        mine = place.credentials()
        await knock(place, mine)
        assert len(heard) == 1
        nobody = replace(mine, key_pem=None, chain_pem=None)  # type: ignore[arg-type]
        foreign = replace(other.credentials(), roots_pem=place.ca.trusted_pem())
        expired = place.credentials(at_s=-7200, life_s=3600)
        future = place.credentials(at_s=7200)
        for bad in (nobody, foreign, expired, future, place.credentials("server")):
            await shut(place, bad)
        assert len(heard) == 1
        assert not place.refusals

    place.run(body)


def test_a_device_hangs_up_on_a_server_that_is_not_of_its_federation(place: "Place", other: "Place") -> None:
    async def body() -> None:
        with pytest.raises(TransferError, match="CERTIFICATE_VERIFY_FAILED"):
            await knock(place, replace(place.credentials(), roots_pem=other.ca.trusted_pem()))

    place.run(body)


def test_a_client_certificate_serves_peers_and_nobody_else(place: "Place", tmp_path: Path) -> None:
    """It names no host that exists, so that nobody who looks for the server takes its holder for one."""

    async def body() -> None:
        rogue = place.credentials()
        tls = Tls(rogue.key_pem, rogue.chain_pem, rogue.roots_pem)
        server = grpc.aio.server(options=server_options())
        port = server.add_secure_port("127.0.0.1:0", server_credentials(lambda: tls, client_certificates=False))
        await server.start()
        try:
            with pytest.raises(IdentityError, match="for other host names"):
                await enrol(replace(place.bundle(), enrol_address=f"127.0.0.1:{port}"), tmp_path / "dev1")
        finally:
            await server.stop(None)

    asyncio.run(body())


def test_roots_rotate_under_a_running_listener(place: "Place", tmp_path: Path) -> None:
    async def body() -> None:
        old_root = keys.fingerprint(place.root())
        old = await enrol(place.bundle(), tmp_path / "dev1")
        # Add: nothing breaks; the next renewal brings the second root along.
        new_root = place.ca.add_root()
        both = await renew(old, tmp_path / "dev1")
        assert both.roots_pem == place.ca.trusted_pem() != old.roots_pem
        # Reissue under the new root: the listener's own certificate too, which only those who know both roots accept.
        place.ca.use_root(new_root)
        with pytest.raises(TransferError, match="CERTIFICATE_VERIFY_FAILED"):
            await knock(place, old)
        new = await renew(both, tmp_path / "dev1")
        # Remove: what the old root signed is shut out from the next handshake on.
        place.ca.remove_root(old_root)
        await shut(place, both)
        await knock(place, new)
        newest = await renew(new, tmp_path / "dev1")
        assert newest.roots_pem == place.ca.current().public_bytes(Encoding.PEM)
        # And a bundle from now on leads to the new root.
        await enrol(place.bundle("dev2"), tmp_path / "dev2")

    place.run(body)


def test_a_server_folder_rotates_under_a_running_listener(place: "Place", tmp_path: Path) -> None:
    folder = tmp_path / "server"

    async def leaf(port: int) -> bytes:
        return await asyncio.to_thread(_leaf, port)

    async def body() -> None:
        place.ca.equip("server", "main", folder)
        read = from_folder(folder, partial(trusted_pem, place.ca.folder))
        server = grpc.aio.server(options=server_options())
        port = server.add_secure_port("127.0.0.1:0", server_credentials(read, client_certificates=False))
        await server.start()
        try:
            first = await leaf(port)
            assert first == await leaf(port) == read().chain_pem
            place.ca.equip("server", "main", folder)
            second = await leaf(port)
            assert second == read().chain_pem != first
            # Unreadable: the last good files stay in force.
            (path,) = folder.glob("v-*/tls.key")
            path.chmod(0o644)
            assert await leaf(port) == second
        finally:
            await server.stop(None)
        with pytest.raises(IdentityError, match="chmod 600"):
            server_credentials(read, client_certificates=False)

    asyncio.run(body())


def _leaf(port: int) -> bytes:
    return ssl.get_server_certificate(("127.0.0.1", port)).encode()


def _context(newest: ssl.TLSVersion) -> ssl.SSLContext:
    """A TLS client that offers exactly one version, trusts anybody, and resumes sessions when it can."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    # Let OpenSSL offer what it calls insecure, so that it is our server that refuses.
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = newest
    return context


def _shake(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[ssl.SSLSession | None, bool]:
    """Shake hands and hang up. Returns the session and whether the server resumed the one given."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, session=session) as link,
    ):
        return link.session, bool(link.session_reused)


def test_tls_starts_at_1_2(place: "Place") -> None:
    async def body() -> None:
        port = int(place.enrol_address.rpartition(":")[2])
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            await asyncio.to_thread(_shake, port, _context(version))
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(_shake, port, _context(version))

    place.run(body)


def test_no_session_outlives_a_rotation(place: "Place") -> None:
    async def body() -> None:
        folder = place.folder / "server"
        place.ca.equip("server", "main", folder)
        server = grpc.aio.server(options=server_options())
        read = from_folder(folder, place.ca.trusted_pem)
        port = server.add_secure_port("127.0.0.1:0", server_credentials(read, client_certificates=False))
        await server.start()
        try:
            context = _context(ssl.TLSVersion.TLSv1_2)
            session, _ = await asyncio.to_thread(_shake, port, context)
            # Control: without a rotation it is resumed, so the attempt below is a real one.
            assert (await asyncio.to_thread(_shake, port, context, session))[1]
            place.ca.equip("server", "main", folder)
            assert not (await asyncio.to_thread(_shake, port, context, session))[1]
        finally:
            await server.stop(None)

    asyncio.run(body())


def test_the_limits_of_the_wire_are_set() -> None:
    found = dict(server_options())
    assert found["grpc.max_concurrent_streams"] == 8
    assert found["grpc.server_handshake_timeout_ms"] == 10_000
    assert found["grpc.so_reuseport"] == 0
    assert found["grpc.http2.min_ping_interval_without_data_ms"] == 30_000
    assert found["grpc.max_connection_idle_ms"] == 300_000
    assert found["grpc.max_connection_age_ms"] == 3_600_000
    assert set(options()) <= set(server_options(2, 100))
    assert dict(server_options(2, 100))["grpc.max_allowed_incoming_connections"] == 100
