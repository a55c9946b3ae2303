"""The federation's certificate authority, in a folder that only the enrolment process can read in full.

FOLDER/roots/HEX.pem    trusted roots, one, or two during a rotation (may be copied to other hosts)
FOLDER/keys/HEX.key     their keys, 0600
FOLDER/current          which root signs

HEX is the start of the root's fingerprint. Nothing is cached: a rotation by another process takes effect at the next call.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from math import ceil
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgehold.core import keys
from edgehold.core.errors import ConfigError, IdentityError
from edgehold.core.identity import BACKDATE_S, SIGNING_KEY_OID, Role, peer_host
from edgehold.proto.strict import name as legal_name

DAY_S = 86_400.0
ROOT_LIFE_S = 3650 * DAY_S
LIFE_S: dict[Role, float] = {"client": DAY_S, "server": 30 * DAY_S, "operator": 30 * DAY_S}
LOCAL_HOSTS = ("localhost", "127.0.0.1")
MOST_ROOTS = 2


def trusted_pem(folder: Path) -> bytes:
    """Every trusted root of the authority in `folder`, PEM; needs no key. `IdentityError` when there is none."""
    pem = b""
    for path in _root_files(folder):
        # A root removed since the listing is a root not trusted.
        with suppress(FileNotFoundError):
            pem += path.read_bytes()
    if not pem:
        raise IdentityError(f"{folder / 'roots'}: no root certificate; create the federation first")
    return pem


class CertificateAuthority:
    """Issues certificates of one federation. now: seconds since 1970."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.now = now
        (organisation,) = self.current().subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        self.federation = str(organisation.value)

    @classmethod
    def create(cls, folder: Path, federation: str, now: Callable[[], float] = time.time) -> "CertificateAuthority":
        """A new federation with one root; `ConfigError` when the folder already holds one."""
        legal_name(federation, "federation")
        if _root_files(folder):
            raise ConfigError(f"{folder}: already holds a certificate authority")
        root = _make_root(folder, federation, now())
        keys.write_file(folder / "current", _short(root).encode(), 0o644)
        return cls(folder, now)

    def roots(self) -> list[x509.Certificate]:
        """Every trusted root."""
        return x509.load_pem_x509_certificates(trusted_pem(self.folder))

    def trusted_pem(self) -> bytes:
        """Every trusted root, PEM."""
        return trusted_pem(self.folder)

    def current(self) -> x509.Certificate:
        """The root that signs."""
        try:
            short = (self.folder / "current").read_text(encoding="utf-8")
        except FileNotFoundError:
            raise IdentityError(f"{self.folder}: holds no certificate authority") from None
        for root in self.roots():
            if _short(root) == short:
                return root
        raise IdentityError(f"{self.folder / 'current'}: names root {short[:64]!r}, which is not among the trusted ones")

    def add_root(self) -> bytes:
        """Make and trust a second root, which does not sign yet. Returns its fingerprint (32 bytes).

        Rotation: add a root; wait until every client has renewed and trusts it; `use_root`; reissue; `remove_root` the old one.
        """
        if len(self.roots()) >= MOST_ROOTS:
            raise ConfigError(f"{self.folder}: {MOST_ROOTS} roots are trusted already; remove the old one first")
        return _fingerprint(_make_root(self.folder, self.federation, self.now()))

    def use_root(self, fingerprint: bytes) -> None:
        """From now on sign with this trusted root (its fingerprint, 32 bytes)."""
        keys.write_file(self.folder / "current", _short(self._root(fingerprint)).encode(), 0o644)

    def remove_root(self, fingerprint: bytes) -> None:
        """Stop trusting a root: whatever it signed is refused from the next handshake on. The current root stays."""
        root = self._root(fingerprint)
        if root == self.current():
            raise ConfigError(f"root {fingerprint.hex()} signs; use another root before removing it")
        # Trust ends first: killed in between, a key nobody trusts remains, which harms nobody.
        (self.folder / "roots" / f"{_short(root)}.pem").unlink()
        (self.folder / "keys" / f"{_short(root)}.key").unlink(missing_ok=True)

    def issue(
        self,
        role: Role,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        signing_fingerprint: bytes,
        *,
        hosts: Sequence[str] = (),
        life_s: float | None = None,
    ) -> x509.Certificate:
        """A certificate for `edgehold://FEDERATION/role/name`, signed by the current root.

        signing_fingerprint: SHA-256 of the holder's Ed25519 key. hosts: DNS names and addresses of a server, beside localhost.
        life_s: from now; None for the role's default. Nobody checks here who asks: that is the caller's business.
        """
        root, now = self.current(), self.now()
        short = _short(root)
        key_file = self.folder / "keys" / f"{short}.key"
        key = keys.tls_key(keys.read_private(key_file), str(key_file))
        uri = f"edgehold://{self.federation}/{role}/{legal_name(name, role)}"
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
        if role == "server":
            names += [_host(host) for host in dict.fromkeys((*LOCAL_HOSTS, *hosts))]
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH if role == "server" else ExtendedKeyUsageOID.CLIENT_AUTH]
        if role == "client":
            # Its peers may read from it, and know it by this name.
            names.append(x509.DNSName(peer_host(self.federation, name)))
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
        # No common name: TLS libraries fall back on it as a host name, and a client may be called like a host.
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.federation),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            ]
        )
        # Rounded up: certificates count whole seconds, and one issued now must not look older than a roster entry made now.
        start = ceil(now) - BACKDATE_S
        end = min(now + (LIFE_S[role] if life_s is None else life_s), root.not_valid_after_utc.timestamp())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(root.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_utc(start))
            .not_valid_after(_utc(end))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.UnrecognizedExtension(SIGNING_KEY_OID, signing_fingerprint), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .sign(key, hashes.SHA256())
        )

    def equip(self, role: Role, name: str, folder: Path, *, hosts: Sequence[str] = (), life_s: float | None = None) -> None:
        """Keys and certificate for a server or operator, in a versioned folder: tls.key, tls.pem, roots.pem, signing.key.

        Called again it renews: a new TLS key, the same signing key. Devices make their own keys and enrol instead.
        """
        if (folder / keys.POINTER).exists():
            pem = keys.load_version(folder, ["signing.key"], [])["signing.key"]
        else:
            pem = keys.key_pem(Ed25519PrivateKey.generate())
        signing = keys.signing_key(pem, str(folder / "signing.key"))
        tls = keys.new_tls_key()
        fingerprint = keys.fingerprint(keys.public_bytes(signing))
        certificate = self.issue(role, name, tls.public_key(), fingerprint, hosts=hosts, life_s=life_s)
        keys.save_version(
            folder,
            {
                "tls.key": (keys.key_pem(tls), 0o600),
                "tls.pem": (certificate.public_bytes(Encoding.PEM), 0o644),
                "roots.pem": (self.trusted_pem(), 0o644),
                "signing.key": (pem, 0o600),
            },
        )

    def _root(self, fingerprint: bytes) -> x509.Certificate:
        for root in self.roots():
            if _fingerprint(root) == fingerprint:
                return root
        known = ", ".join(_fingerprint(root).hex() for root in self.roots())
        raise ConfigError(f"no trusted root with fingerprint {fingerprint.hex()[:64]}; trusted: {known}")


def _root_files(folder: Path) -> list[Path]:
    return sorted((folder / "roots").glob("*.pem"))


def _fingerprint(certificate: x509.Certificate) -> bytes:
    return keys.fingerprint(certificate.public_bytes(Encoding.DER))


def _short(certificate: x509.Certificate) -> str:
    return _fingerprint(certificate).hex()[:16]


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _make_root(folder: Path, federation: str, now: float) -> x509.Certificate:
    """Key and self-signed root: P-256, 10 years, may sign leaves only."""
    key = keys.new_tls_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # The key's identifier makes the subjects of two roots differ, so that a verifier never tries the wrong one.
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, f"edgehold root {identifier.digest.hex()[:16]}"),
        ]
    )
    root = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(now - BACKDATE_S))
        .not_valid_after(_utc(now + ROOT_LIFE_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "keys").mkdir(mode=0o700, exist_ok=True)
    (folder / "roots").mkdir(mode=0o755, exist_ok=True)
    # The key first: a trusted root whose key is missing could not sign, a key without root is merely unused.
    keys.write_file(folder / "keys" / f"{_short(root)}.key", keys.key_pem(key))
    keys.write_file(folder / "roots" / f"{_short(root)}.pem", root.public_bytes(Encoding.PEM), 0o644)
    return root
