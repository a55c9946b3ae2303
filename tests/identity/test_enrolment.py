"""Enrolment and renewal over real sockets: what is given, and every way to be refused."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgehold.client.enrol import enrol, renew, renew_at
from edgehold.client.identity import Credentials, assemble, channel, load, save
from edgehold.core import keys
from edgehold.core.errors import BadSignature, Busy, ConfigError, FlError, IdentityError, TransferError, WrongShape
from edgehold.core.identity import Identity, identity_of
from edgehold.proto.channel import Stub, client_options
from edgehold.proto.v1 import enrolment_pb2 as pb
from edgehold.server.identity.tokens import REFUSED
from edgehold.server.wire.enrolment import Issuer, own_tls, start_enrolment

if TYPE_CHECKING:
    from tests.identity.conftest import Place

ENROLMENT = pb.DESCRIPTOR.services_by_name["EnrolmentService"]
RENEWAL = pb.DESCRIPTOR.services_by_name["RenewalService"]
DER = serialization.Encoding.DER


def request(place: "Place", client: str = "dev1", token: str | None = None) -> pb.EnrolRequest:
    """A sound request."""
    signing = Ed25519PrivateKey.generate()
    csr = keys.make_csr(keys.new_tls_key())
    return pb.EnrolRequest(
        client_id=client,
        token=place.tokens.mint(client) if token is None else token,
        csr=csr,
        signing_key=keys.public_bytes(signing),
        signing_proof=signing.sign(keys.enrol_statement(keys.fingerprint(place.root()), client, csr)),
    )


async def send(place: "Place", message: pb.EnrolRequest) -> pb.Credentials:
    """The raw call, as any program could make it."""
    tls = grpc.ssl_channel_credentials(place.ca.trusted_pem())
    async with grpc.aio.secure_channel(place.enrol_address, tls, options=client_options()) as link:
        reply = await Stub(link, ENROLMENT).unary("Enrol", message, pb.EnrolResponse)
    return reply.credentials


async def status(place: "Place", message: pb.EnrolRequest) -> tuple[grpc.StatusCode, str | None]:
    """gRPC status and text of a call that must fail."""
    tls = grpc.ssl_channel_credentials(place.ca.trusted_pem())
    async with grpc.aio.secure_channel(place.enrol_address, tls, options=client_options()) as link:
        call: Any = link.unary_unary("/edgehold.proto.v1.EnrolmentService/Enrol")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(message.SerializeToString(), timeout=10)
    return caught.value.code(), caught.value.details()


async def ask_renewal(place: "Place", credentials: Credentials, csr: bytes) -> pb.Credentials:
    """The raw renewal call."""
    async with channel(credentials, place.renew_address) as link:
        reply = await Stub(link, RENEWAL).unary("Renew", pb.RenewRequest(csr=csr), pb.RenewResponse)
    return reply.credentials


def test_a_device_enrols_and_finds_itself_again(place: "Place", tmp_path: Path) -> None:
    async def body() -> None:
        text = keys.encode_bundle(place.bundle())
        given = await enrol(keys.decode_bundle(text), tmp_path / "dev1", place.clock)
        found = load(tmp_path / "dev1")
        identity = identity_of(found.chain_pem)
        assert identity.uri == "edgehold://fed/client/dev1"
        assert (found.client_id, found.federation) == ("dev1", "fed")
        assert (found.server_address, found.renew_address) == ("localhost:2", place.renew_address)
        assert identity.signing_fingerprint == keys.fingerprint(keys.public_bytes(found.signing_key))
        assert found.server_signing_key.public_bytes_raw() == place.server_public
        assert found.roots_pem == place.ca.trusted_pem()
        assert 86_398 <= found.expires_s - found.issued_s <= 86_400
        assert abs(found.issued_s - place.clock()) < 30
        assert (given.key_pem, given.chain_pem, given.expires_s) == (found.key_pem, found.chain_pem, found.expires_s)
        (issued,) = place.tokens.issued("dev1")
        assert (issued.issued_s, issued.expires_s) == (found.issued_s, found.expires_s)
        certificate = x509.load_pem_x509_certificate(found.chain_pem)
        assert issued.serial == f"{certificate.serial_number:x}"

    place.run(body)


def test_a_used_late_foreign_or_garbage_token_gets_one_text(place: "Place", tmp_path: Path) -> None:
    async def body() -> None:
        used, foreign = request(place), request(place, "dev2")
        await send(place, used)
        late = request(place, token=place.tokens.mint("dev1", 60.0))
        place.clock.ahead_s += 61
        answers = [
            await status(place, used),
            await status(place, request(place, "dev1", foreign.token)),
            await status(place, late),
            await status(place, request(place, token="garbage")),
        ]
        assert set(answers) == {(grpc.StatusCode.PERMISSION_DENIED, REFUSED)}
        # As the library tells it, and nothing is saved.
        place.clock.ahead_s += 60
        with pytest.raises(IdentityError, match="^token not accepted$"):
            await enrol(place.bundle(token="garbage"), tmp_path / "dev1")
        assert not (tmp_path / "dev1").exists()
        assert {(method, name, error.message) for method, name, error in place.refusals} == {
            ("EnrolmentService/Enrol", "-", REFUSED)
        }
        assert len(place.refusals) == 5

    place.run(body)


def test_of_concurrent_enrolments_with_one_token_one_wins(place: "Place", tmp_path: Path) -> None:
    async def body() -> None:
        bundle = place.bundle()
        tries = [enrol(bundle, tmp_path / str(number)) for number in range(5)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["Credentials"] + ["IdentityError"] * 4
        assert len(place.tokens.issued("dev1")) == 1

    place.run(body)


def test_too_many_failures_make_even_a_good_token_wait(place: "Place", tmp_path: Path) -> None:
    async def body() -> None:
        good = place.bundle()
        for _ in range(5):
            with pytest.raises(IdentityError):
                await send(place, request(place, token="bad"))
        with pytest.raises(Busy) as caught:
            await enrol(good, tmp_path / "dev1")
        assert caught.value.retry_after_s is not None
        assert 0 < caught.value.retry_after_s <= 60
        place.clock.ahead_s += caught.value.retry_after_s
        await enrol(good, tmp_path / "dev1")

    place.run(body)


def other_signed(place: "Place", good: pb.EnrolRequest) -> pb.EnrolRequest:
    """Proof by another signing key than the one sent."""
    proof = Ed25519PrivateKey.generate().sign(keys.enrol_statement(keys.fingerprint(place.root()), "dev1", good.csr))
    return but(good, "signing_proof", proof)


def proof_for(place: "Place", good: pb.EnrolRequest, root: bytes, client: str, csr: bytes) -> pb.EnrolRequest:
    """A valid signature over something else."""
    signing = Ed25519PrivateKey.generate()
    proof = signing.sign(keys.enrol_statement(root, client, csr))
    return but(but(good, "signing_key", keys.public_bytes(signing)), "signing_proof", proof)


def swapped_key(csr: bytes) -> bytes:
    """A request whose key was exchanged after it was signed: same signature, other public key of equal length."""
    mine = x509.load_der_x509_csr(csr).public_key()
    other = keys.new_tls_key().public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return csr.replace(mine.public_bytes(DER, spki), other.public_bytes(DER, spki))


def csr_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(DER)


def but(message: pb.EnrolRequest, name: str, value: object) -> pb.EnrolRequest:
    """A copy with one field changed."""
    copy = pb.EnrolRequest.FromString(message.SerializeToString())
    setattr(copy, name, value)
    return copy


ROOT = bytes(32)
CASES: dict[str, tuple[type[FlError], Callable[["Place", pb.EnrolRequest], pb.EnrolRequest]]] = {
    "other signing key": (BadSignature, other_signed),
    "proof for another root": (BadSignature, lambda p, r: proof_for(p, r, ROOT, "dev1", r.csr)),
    "proof for another client": (BadSignature, lambda p, r: proof_for(p, r, keys.fingerprint(p.root()), "dev2", r.csr)),
    "proof for another request": (BadSignature, lambda p, r: proof_for(p, r, keys.fingerprint(p.root()), "dev1", b"")),
    "empty proof": (BadSignature, lambda p, r: but(r, "signing_proof", b"")),
    "short signing key": (WrongShape, lambda p, r: but(r, "signing_key", r.signing_key[:31])),
    "request for another key": (BadSignature, lambda p, r: but(r, "csr", swapped_key(r.csr))),
    "RSA": (WrongShape, lambda p, r: but(r, "csr", csr_of(rsa.generate_private_key(65537, 2048)))),
    "P-384": (WrongShape, lambda p, r: but(r, "csr", csr_of(ec.generate_private_key(ec.SECP384R1())))),
    "no request": (WrongShape, lambda p, r: but(r, "csr", b"")),
    "garbage request": (WrongShape, lambda p, r: but(r, "csr", b"\x30\x82" + r.csr)),
    "illegal name": (WrongShape, lambda p, r: but(r, "client_id", "../dev1")),
    "upper case name": (WrongShape, lambda p, r: but(r, "client_id", "Dev1")),
}


@pytest.mark.parametrize("case", CASES)
def test_an_unsound_request_is_refused_and_does_not_burn_the_token(place: "Place", case: str) -> None:
    kind, change = CASES[case]

    async def body() -> None:
        good = request(place)
        with pytest.raises(kind) as caught:
            await send(place, change(place, good))
        assert type(caught.value) is kind
        assert good.token not in caught.value.message
        expected = "UNAUTHENTICATED" if kind is BadSignature else "INVALID_ARGUMENT"
        assert (await status(place, change(place, good)))[0].name == expected
        await send(place, good)

    place.run(body)


def test_a_bundle_for_another_root_never_sends_its_token(place: "Place", other: "Place", tmp_path: Path) -> None:
    async def body() -> None:
        stranger = replace(other.bundle(), enrol_address=place.enrol_address)
        with pytest.raises(IdentityError, match="the token was not sent"):
            await enrol(stranger, tmp_path / "dev1")
        with pytest.raises(ConfigError, match="fingerprint"):
            await enrol(replace(place.bundle(), root_fingerprint="00" * 32), tmp_path / "dev1")
        assert not place.refusals
        assert not (tmp_path / "dev1").exists()

    place.run(body)


def test_a_listener_under_another_name_and_a_device_in_another_time_are_told(place: "Place", tmp_path: Path) -> None:
    async def body() -> None:
        tls = own_tls(place.ca, "enrolment", keys.fingerprint(place.server_public), ())
        server, port = await start_enrolment(place.issuer, "0.0.0.0:0", tls)
        try:
            # 127.0.0.2 reaches the listener but is not in its certificate.
            with pytest.raises(IdentityError, match="for other host names"):
                await enrol(replace(place.bundle(), enrol_address=f"127.0.0.2:{port}"), tmp_path / "dev1")
            with pytest.raises(ConfigError, match=f"cannot listen on 0.0.0.0:{port}"):
                await start_enrolment(place.issuer, f"0.0.0.0:{port}", tls)
        finally:
            await server.stop(None)
        with pytest.raises(IdentityError, match="by this device's clock"):
            await enrol(place.bundle(), tmp_path / "dev1", lambda: place.clock() + 90_000)
        assert not (tmp_path / "dev1").exists()

    place.run(body)


def test_a_device_that_slept_past_its_certificate_is_told_to_enrol_again(place: "Place", tmp_path: Path) -> None:
    async def body() -> None:
        expired = place.credentials(at_s=-7200, life_s=3600)
        with pytest.raises(IdentityError, match="enrol again with a new token"):
            await renew(expired, tmp_path / "dev1")
        # A listener that is merely away is another matter.
        with pytest.raises(TransferError):
            await renew(replace(place.credentials(), renew_address="127.0.0.1:1"), tmp_path / "dev1")

    place.run(body)


def lies(place: "Place", other: "Place") -> dict[str, Callable[[pb.Credentials], None]]:
    """What a listener could answer instead of the truth."""
    somebody = place.credentials(name="dev1")

    def set_field(name: str, value: object) -> Callable[[pb.Credentials], None]:
        return lambda reply: setattr(reply, name, value)

    return {
        "another device's certificate": set_field("certificate_chain", somebody.chain_pem),
        "no certificate": set_field("certificate_chain", b""),
        "no roots": set_field("roots", b""),
        "other roots": set_field("roots", other.ca.trusted_pem()),
        "short server key": set_field("server_signing_key", b"short"),
    }


@pytest.mark.parametrize(
    "lie", ["another device's certificate", "no certificate", "no roots", "other roots", "short server key"]
)
def test_a_false_answer_is_never_saved(
    place: "Place", other: "Place", tmp_path: Path, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, honest = lies(place, other)[lie], Issuer.credentials

    def dishonest(self: Issuer, client: str, key: ec.EllipticCurvePublicKey, fingerprint: bytes) -> pb.Credentials:
        reply = honest(self, client, key, fingerprint)
        spoil(reply)
        return reply

    monkeypatch.setattr(Issuer, "credentials", dishonest)

    async def body() -> None:
        with pytest.raises(IdentityError):
            await enrol(place.bundle(), tmp_path / "dev1")
        assert not (tmp_path / "dev1").exists()

    place.run(body)


@pytest.mark.parametrize("lie", ["client", "role", "signing key", "authority"])
def test_a_certificate_that_is_not_exactly_ours_is_never_saved(
    place: "Place", other: "Place", tmp_path: Path, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dishonest(self: Issuer, client: str, key: ec.EllipticCurvePublicKey, fingerprint: bytes) -> pb.Credentials:
        certificate = (other if lie == "authority" else place).ca.issue(
            "operator" if lie == "role" else "client",
            "dev2" if lie == "client" else client,
            key,
            bytes(32) if lie == "signing key" else fingerprint,
        )
        return pb.Credentials(
            certificate_chain=certificate.public_bytes(serialization.Encoding.PEM),
            roots=place.ca.trusted_pem(),
            federation="fed",
            server_signing_key=place.server_public,
        )

    monkeypatch.setattr(Issuer, "credentials", dishonest)

    async def body() -> None:
        with pytest.raises(IdentityError):
            await enrol(place.bundle(), tmp_path / "dev1")
        assert not (tmp_path / "dev1").exists()

    place.run(body)


def test_renewal_changes_the_tls_key_and_keeps_the_signing_key(place: "Place", tmp_path: Path) -> None:
    seen: list[Identity] = []
    place.roster = seen.append

    async def body() -> None:
        first = await enrol(place.bundle(), tmp_path / "dev1")
        place.clock.ahead_s += 60_000
        second = await renew(first, tmp_path / "dev1", place.clock)
        found = load(tmp_path / "dev1")
        assert found.key_pem == second.key_pem != first.key_pem
        assert keys.public_bytes(found.signing_key) == keys.public_bytes(first.signing_key)
        one, two = identity_of(first.chain_pem), identity_of(found.chain_pem)
        assert (one.uri, one.signing_fingerprint) == (two.uri, two.signing_fingerprint)
        assert two.expires_s - one.expires_s == pytest.approx(60_000, abs=30)
        assert seen == [one]
        assert [row.expires_s for row in place.tokens.issued("dev1")] == [one.expires_s, two.expires_s]
        # Its keys open doors: the new certificate starts "now" by the moved clock, so only its shape is compared here.
        assert x509.load_pem_x509_certificate(found.chain_pem).public_key() == keys.tls_key(found.key_pem, "x").public_key()

    place.run(body)


def test_the_roster_refuses_a_renewal_and_nothing_changes(place: "Place", tmp_path: Path) -> None:
    def roster(identity: Identity) -> None:
        raise IdentityError(f"client {identity.name!r} is revoked")

    place.roster = roster

    async def body() -> None:
        first = await enrol(place.bundle(), tmp_path / "dev1")
        with pytest.raises(IdentityError, match="is revoked"):
            await renew(first, tmp_path / "dev1")
        assert load(tmp_path / "dev1").key_pem == first.key_pem
        assert len(place.tokens.issued("dev1")) == 1
        assert [(method, name) for method, name, _ in place.refusals] == [("RenewalService/Renew", "dev1")]

    place.run(body)


def test_an_operator_has_no_client_certificate_to_renew(place: "Place") -> None:
    async def body() -> None:
        with pytest.raises(IdentityError, match="is no client of federation fed"):
            await ask_renewal(place, place.credentials("operator", "ann"), keys.make_csr(keys.new_tls_key()))

    place.run(body)


def test_a_certificate_that_expired_on_an_open_connection_is_refused(place: "Place") -> None:
    async def body() -> None:
        mine = place.credentials(life_s=3600)
        async with channel(mine, place.renew_address) as link:
            stub = Stub(link, RENEWAL)
            ask = pb.RenewRequest(csr=keys.make_csr(keys.new_tls_key()))
            await stub.unary("Renew", ask, pb.RenewResponse)
            place.clock.ahead_s += 3601
            with pytest.raises(IdentityError, match="expired"):
                await stub.unary("Renew", ask, pb.RenewResponse)

    place.run(body)


def test_unsound_renewals_are_refused(place: "Place") -> None:
    async def body() -> None:
        mine = place.credentials()
        for csr, kind in (
            (csr_of(keys.tls_key(mine.key_pem, "x")), WrongShape),
            (b"garbage", WrongShape),
            (csr_of(rsa.generate_private_key(65537, 2048)), WrongShape),
            (swapped_key(keys.make_csr(keys.new_tls_key())), BadSignature),
        ):
            with pytest.raises(kind):
                await ask_renewal(place, mine, csr)
        assert place.tokens.issued("dev1") == []
        async with channel(mine, place.renew_address) as link:
            call: Any = link.unary_unary("/edgehold.proto.v1.RenewalService/Renew")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\xff\xff garbage", timeout=10)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        # Each refusal is counted once, under the name in the certificate, whoever noticed it.
        assert [name for _, name, _ in place.refusals] == ["dev1"] * 5

    place.run(body)


def test_renewals_are_limited_per_client(place: "Place") -> None:
    async def body() -> None:
        mine, another = place.credentials(), place.credentials(name="dev2")
        ask = pb.RenewRequest(csr=keys.make_csr(keys.new_tls_key()))
        async with channel(mine, place.renew_address) as link:
            stub = Stub(link, RENEWAL)
            for _ in range(60):
                await stub.unary("Renew", ask, pb.RenewResponse)
            with pytest.raises(Busy) as caught:
                await stub.unary("Renew", ask, pb.RenewResponse)
        assert caught.value.retry_after_s == pytest.approx(3600, abs=30)
        await ask_renewal(place, another, ask.csr)

    place.run(body)


def test_renewal_falls_at_two_thirds_of_life(place: "Place") -> None:
    mine = replace(place.credentials(), issued_s=1000.0, expires_s=1000.0 + 86_400)
    # 16 h after issue, then up to two hours more
    assert [renew_at(mine, jitter) - 1000 for jitter in (0.0, 0.5, 1.0)] == pytest.approx([57_600, 61_200, 64_800])


def test_a_disk_failure_is_internal_and_reported(place: "Place") -> None:
    async def body() -> None:
        good = request(place)
        place.tokens._db.execute("DROP TABLE issued")
        assert (await status(place, good))[0] is grpc.StatusCode.INTERNAL
        assert len(place.broken) == 1

    place.run(body)


def test_each_listener_knows_its_own_service_only(place: "Place") -> None:
    async def body() -> None:
        mine = place.credentials()
        async with channel(mine, place.enrol_address) as link:
            with pytest.raises(TransferError, match="UNIMPLEMENTED"):
                await Stub(link, RENEWAL).unary("Renew", pb.RenewRequest(), pb.RenewResponse)
        async with channel(mine, place.renew_address) as link:
            with pytest.raises(TransferError, match="UNIMPLEMENTED"):
                await Stub(link, ENROLMENT).unary("Enrol", request(place), pb.EnrolResponse)

    place.run(body)


@pytest.mark.parametrize("name", ["tls.key", "signing.key"])
def test_a_key_file_open_to_others_keeps_the_device_from_starting(place: "Place", tmp_path: Path, name: str) -> None:
    save(place.credentials(), tmp_path / "dev1")
    (path,) = (tmp_path / "dev1").glob(f"v-*/{name}")
    path.chmod(0o640)
    with pytest.raises(IdentityError, match=f"chmod 600 .*{name}"):
        load(tmp_path / "dev1")


def test_keys_that_do_not_belong_together_are_refused(place: "Place", tmp_path: Path) -> None:
    mine, another = place.credentials(), place.credentials()
    changes: list[dict[str, Any]] = [
        {"key_pem": another.key_pem},
        {"signing_key": another.signing_key},
        {"chain_pem": place.credentials("operator").chain_pem},
    ]
    for change in changes:
        save(replace(mine, **change), tmp_path / "dev1")
        with pytest.raises(IdentityError, match="enrol again"):
            load(tmp_path / "dev1")
    save(mine, tmp_path / "dev1")
    (path,) = (tmp_path / "dev1").glob("v-*/federation.json")
    path.write_text("{}")
    with pytest.raises(IdentityError, match=r"federation\.json is damaged"):
        load(tmp_path / "dev1")
    with pytest.raises(IdentityError, match="server signing key"):
        assemble(
            server_address="a:1",
            renew_address="a:2",
            key_pem=mine.key_pem,
            chain_pem=mine.chain_pem,
            roots_pem=mine.roots_pem,
            signing_key=mine.signing_key,
            server_signing_key=b"short",
        )


def test_no_secret_reaches_a_log_or_a_repr(place: "Place", tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets_: list[str] = []

    async def body() -> None:
        bundle = place.bundle()
        mine = await enrol(bundle, tmp_path / "dev1")
        for text in (repr(bundle), repr(mine), repr(place.tokens), repr(place.issuer)):
            logging.getLogger("test").info(text)
        again = await renew(mine, tmp_path / "dev1")
        with pytest.raises(IdentityError):
            await enrol(bundle, tmp_path / "again")
        with pytest.raises(BadSignature):
            await send(place, other_signed(place, request(place, token="canary-token")))
        secrets_.extend([bundle.token, keys.encode_bundle(bundle), "canary-token"])
        (authority_key,) = (place.ca.folder / "keys").iterdir()
        for pem in (mine.key_pem, again.key_pem, keys.key_pem(mine.signing_key), authority_key.read_bytes()):
            secrets_.append(pem.decode().splitlines()[1])

    place.run(body)
    assert "enrolled client dev1" in caplog.text
    assert "renewed client dev1" in caplog.text
    assert "token not accepted" in caplog.text
    assert len(secrets_) == 7
    assert [secret for secret in secrets_ if secret in caplog.text] == []
    # The check can fail: what is logged is found.
    logging.getLogger("test").info("%s", secrets_[0])
    assert secrets_[0] in caplog.text
