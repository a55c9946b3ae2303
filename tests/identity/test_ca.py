"""What certificates say, and roots that come and go."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given
from hypothesis import strategies as st

from edgehold.core import keys
from edgehold.core.errors import ConfigError, IdentityError, WrongShape
from edgehold.core.identity import BACKDATE_S, Role, identity_of
from edgehold.server.identity.ca import CertificateAuthority, trusted_pem

NOON = 1_800_000_000.0
FINGERPRINT = bytes(range(32))


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "ca", "fed", lambda: NOON)


def issue(authority: CertificateAuthority, role: Role, name: str = "dev1", hosts: tuple[str, ...] = ()) -> x509.Certificate:
    return authority.issue(role, name, keys.new_tls_key().public_key(), FINGERPRINT, hosts=hosts)


def fingerprint(certificate: x509.Certificate) -> bytes:
    return keys.fingerprint(certificate.public_bytes(Encoding.DER))


@pytest.mark.parametrize(("role", "life_s"), [("client", 86_400.0), ("server", 30 * 86_400.0), ("operator", 30 * 86_400.0)])
def test_a_certificate_says_who_what_for_and_how_long(authority: CertificateAuthority, role: Role, life_s: float) -> None:
    certificate = issue(authority, role)
    identity = identity_of(certificate.public_bytes(Encoding.PEM))
    assert (identity.federation, identity.role, identity.name) == ("fed", role, "dev1")
    assert identity.uri == f"edgehold://fed/{role}/dev1"
    assert identity.signing_fingerprint == FINGERPRINT
    assert identity.issued_s == NOON - BACKDATE_S == NOON - 300
    assert identity.expires_s == NOON + life_s
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    calls, answers = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
    # A client's peers may read from it: it alone is on both sides of a connection.
    assert list(usage) == {"server": [answers], "client": [calls, answers], "operator": [calls]}[role]
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert not basic.value.ca
    assert not certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)


def test_only_servers_have_host_names_that_exist(authority: CertificateAuthority) -> None:
    def hosts(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.DNSName), [str(a) for a in names.get_values_for_type(x509.IPAddress)]

    server = issue(authority, "server", hosts=("fl.example.org", "10.0.0.1", "fd00::1", "localhost"))
    assert hosts(server) == (["localhost", "fl.example.org"], ["127.0.0.1", "10.0.0.1", "fd00::1"])
    assert hosts(issue(authority, "client", hosts=("fl.example.org",))) == (["dev1.client.fed.invalid"], [])
    assert hosts(issue(authority, "operator", hosts=("fl.example.org",))) == ([], [])


def test_the_root_signs_leaves_only_for_ten_years(authority: CertificateAuthority) -> None:
    root = authority.current()
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert root.not_valid_after_utc.timestamp() == NOON + 3650 * 86_400
    (path,) = (authority.folder / "keys").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert isinstance(root.public_key(), ec.EllipticCurvePublicKey)
    assert trusted_pem(authority.folder) == root.public_bytes(Encoding.PEM)


def test_another_verifier_agrees(authority: CertificateAuthority) -> None:
    # cryptography's own path builder as the oracle: server names, client use, time.
    certificate = issue(authority, "server", hosts=("fl.example.org",))
    now = datetime.fromtimestamp(NOON, UTC)
    policy = PolicyBuilder().store(Store(authority.roots())).time(now)
    for host in ("localhost", "fl.example.org"):
        assert len(policy.build_server_verifier(x509.DNSName(host)).verify(certificate, [])) == 2
    with pytest.raises(x509.verification.VerificationError):
        policy.build_server_verifier(x509.DNSName("evil.example.org")).verify(certificate, [])
    client = issue(authority, "client")
    assert policy.build_client_verifier().verify(client, []).subjects
    with pytest.raises(x509.verification.VerificationError):
        policy.build_client_verifier().verify(certificate, [])
    late = PolicyBuilder().store(Store(authority.roots())).time(datetime.fromtimestamp(NOON + 90_000, UTC))
    with pytest.raises(x509.verification.VerificationError):
        late.build_client_verifier().verify(client, [])


@given(now=st.floats(1.7e9, 1.9e9), life_s=st.floats(1.0, 86_400.0))
def test_a_certificate_never_looks_older_than_now_and_never_outlives_its_life(
    tmp_path_factory: pytest.TempPathFactory, now: float, life_s: float
) -> None:
    authority = _shared(tmp_path_factory)
    authority.now = lambda: now
    certificate = authority.issue("client", "dev1", _KEY, FINGERPRINT, life_s=life_s)
    assert now <= certificate.not_valid_before_utc.timestamp() + BACKDATE_S < now + 1
    assert now + life_s - 1 < certificate.not_valid_after_utc.timestamp() <= now + life_s


_KEY = keys.new_tls_key().public_key()
_SHARED: list[CertificateAuthority] = []


def _shared(factory: pytest.TempPathFactory) -> CertificateAuthority:
    if not _SHARED:
        _SHARED.append(CertificateAuthority.create(factory.mktemp("ca") / "ca", "fed", lambda: 1.65e9))
    return _SHARED[0]


@pytest.mark.parametrize("name", ["", "Dev1", "a/b", "..", "a b", "x" * 65, "dev1\n", "-a"])
def test_illegal_names_get_no_certificate(authority: CertificateAuthority, name: str) -> None:
    with pytest.raises(WrongShape):
        issue(authority, "client", name)
    with pytest.raises(WrongShape):
        CertificateAuthority.create(authority.folder.parent / "second", name)


def test_longest_names_fit(tmp_path: Path) -> None:
    longest = "x" * 64
    authority = CertificateAuthority.create(tmp_path / "ca", longest, lambda: NOON)
    assert identity_of(issue(authority, "operator", longest).public_bytes(Encoding.PEM)).name == longest


def test_rotation_adds_uses_removes(authority: CertificateAuthority) -> None:
    old = authority.current()
    before = issue(authority, "client")
    added = authority.add_root()
    assert authority.current() == old
    assert {fingerprint(root) for root in authority.roots()} == {fingerprint(old), added}
    with pytest.raises(ConfigError, match="remove the old one first"):
        authority.add_root()
    with pytest.raises(ConfigError, match="use another root"):
        authority.remove_root(fingerprint(old))
    authority.use_root(added)
    # Another object on the same folder, as in another process, sees the same.
    second = CertificateAuthority(authority.folder, lambda: NOON)
    assert fingerprint(second.current()) == added
    after = issue(second, "client")
    after.verify_directly_issued_by(authority.current())
    with pytest.raises((ValueError, InvalidSignature)):
        before.verify_directly_issued_by(authority.current())
    authority.remove_root(fingerprint(old))
    assert [fingerprint(root) for root in second.roots()] == [added]
    assert len(list((authority.folder / "keys").iterdir())) == 1
    with pytest.raises(ConfigError, match="no trusted root"):
        authority.use_root(fingerprint(old))


def test_one_folder_one_federation(authority: CertificateAuthority, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="already holds"):
        CertificateAuthority.create(authority.folder, "fed")
    with pytest.raises(IdentityError, match="no certificate authority"):
        CertificateAuthority(tmp_path / "nothing")


def test_an_open_authority_key_is_refused(authority: CertificateAuthority) -> None:
    (path,) = (authority.folder / "keys").iterdir()
    path.chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        issue(authority, "client")


def test_equipping_again_keeps_the_signing_key_only(authority: CertificateAuthority, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    names = (["tls.key", "signing.key"], ["tls.pem", "roots.pem"])
    authority.equip("server", "main", folder, hosts=("fl.example.org",))
    first = keys.load_version(folder, *names)
    authority.equip("server", "main", folder)
    second = keys.load_version(folder, *names)
    assert first["signing.key"] == second["signing.key"]
    assert first["tls.key"] != second["tls.key"]
    public = keys.public_bytes(keys.signing_key(second["signing.key"], "signing.key"))
    assert identity_of(second["tls.pem"]).signing_fingerprint == keys.fingerprint(public)
