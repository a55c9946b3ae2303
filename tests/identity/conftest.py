"""A federation in a temporary folder, with both listeners on port 0, and clocks that tests move by hand."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from edgehold.client.identity import Credentials, assemble
from edgehold.core import keys
from edgehold.core.errors import FlError, JournalError
from edgehold.core.identity import Identity, Role
from edgehold.server.identity.ca import CertificateAuthority
from edgehold.server.identity.tokens import Tokens
from edgehold.server.wire.enrolment import Issuer, own_tls, start_enrolment, start_renewal


@dataclass
class Clock:
    """Real time plus what a test adds."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@dataclass
class Place:
    """One federation. refusals: what the issuer heard of; roster: called for every renewal."""

    folder: Path
    federation: str = "fed"
    clock: Clock = field(default_factory=Clock)
    life_s: float = 86_400.0
    refusals: list[tuple[str, str, FlError]] = field(default_factory=list)
    broken: list[JournalError] = field(default_factory=list)
    roster: Callable[[Identity], object] = lambda identity: None

    def __post_init__(self) -> None:
        self.ca = CertificateAuthority.create(self.folder / "ca", self.federation, self.clock)
        self.tokens = Tokens(self.folder / "enrolment", self.clock)
        self.server_key = Ed25519PrivateKey.generate()
        self.server_public = keys.public_bytes(self.server_key)
        self.issuer = Issuer(
            self.ca,
            self.tokens,
            self.server_public,
            self.life_s,
            lambda method, name, error: self.refusals.append((method, name, error)),
            self.broken.append,
        )
        self.enrol_address = self.renew_address = "localhost:1"

    def root(self) -> bytes:
        """The current root, DER."""
        return self.ca.current().public_bytes(Encoding.DER)

    def bundle(self, client: str = "dev1", token: str | None = None) -> keys.Bundle:
        """A bundle with a fresh token, or with this one."""
        return keys.Bundle(
            self.federation,
            client,
            self.tokens.mint(client) if token is None else token,
            self.enrol_address,
            self.renew_address,
            "localhost:2",
            keys.fingerprint(self.root()).hex(),
            self.root(),
        )

    def credentials(
        self, role: Role = "client", name: str = "dev1", at_s: float = 0.0, life_s: float | None = None
    ) -> Credentials:
        """Credentials issued `at_s` seconds from now without asking anybody; other roles' are made to look alike."""
        signing, tls = Ed25519PrivateKey.generate(), keys.new_tls_key()
        issuing = CertificateAuthority(self.ca.folder, lambda: self.clock() + at_s)
        fingerprint = keys.fingerprint(keys.public_bytes(signing))

        def chain(role: Role) -> bytes:
            return issuing.issue(role, name, tls.public_key(), fingerprint, life_s=life_s).public_bytes(Encoding.PEM)

        found = assemble(
            server_address="localhost:2",
            renew_address=self.renew_address,
            key_pem=keys.key_pem(tls),
            chain_pem=chain("client"),
            roots_pem=self.ca.trusted_pem(),
            signing_key=signing,
            server_signing_key=self.server_public,
        )
        return found if role == "client" else replace(found, chain_pem=chain(role))

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Place"]:
        """Both listeners up."""
        tls = own_tls(self.ca, "enrolment", keys.fingerprint(self.server_public), ())
        servers: list[grpc.aio.Server] = []
        try:
            server, port = await start_enrolment(self.issuer, "127.0.0.1:0", tls)
            servers.append(server)
            self.enrol_address = f"127.0.0.1:{port}"
            server, port = await start_renewal(self.issuer, "127.0.0.1:0", tls, lambda identity: self.roster(identity))
            servers.append(server)
            self.renew_address = f"127.0.0.1:{port}"
            yield self
        finally:
            for server in servers:
                await server.stop(None)

    def run(self, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine with both listeners up."""

        async def whole() -> None:
            async with self.listening():
                await body()

        asyncio.run(whole())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A federation called fed."""
    return Place(tmp_path / "place")


@pytest.fixture
def other(tmp_path: Path) -> Place:
    """Another federation that happens to have the same name."""
    return Place(tmp_path / "other")
