"""What the fuzzer found once, kept here in short."""

import base64
import datetime
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from edgehold.core import keys
from edgehold.core.config import parse_toml
from edgehold.core.errors import ConfigError, IdentityError, JournalError, WrongShape
from edgehold.core.identity import identity_of
from edgehold.core.masks.client_state import ClientState
from edgehold.core.masks.gathering import Gathering
from edgehold.core.masks.group import MaskGroup
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.proto.status import DETAIL_KEY, error_of
from edgehold.proto.v1.control_pb2 import ErrorDetail
from edgehold.server.wire.enrolment import csr_key


@pytest.mark.parametrize("value", ["[" * 5000, "{a=" * 5000, "9" * 5000, "[" * 5000 + "]" * 5000])
def test_toml_too_deep_or_too_long(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^plan\.toml: not valid TOML"):
        parse_toml(f"a = {value}\n", "plan.toml")


@pytest.mark.parametrize("liars", [10_001, 10**18, 10**30])
def test_more_liars_than_can_be_counted(liars: int) -> None:
    """Looking for the quorum that would withstand them took for ever."""
    text = f'[run]\nname = "r"\nrounds = 1\ntask = "t"\n[cohort]\nsize = 4\n[method]\nname = "fedavg"\nliars = {liars}\n'
    with pytest.raises(ConfigError, match="liars"):
        parse_plan(text + 'rule = "trimmed_mean"\n', registry.method)


def certificate() -> bytes:
    key = keys.new_tls_key()
    name, now = x509.Name([]), datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(1)).sign(key, hashes.SHA256())
    return made.public_bytes(Encoding.DER)


VERSION_3, VERSION_67 = bytes.fromhex("a003020102"), bytes.fromhex("a003020142")


def test_a_certificate_of_an_unheard_of_version() -> None:
    der = certificate()
    assert der.count(VERSION_3) == 1
    der = der.replace(VERSION_3, VERSION_67)
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    with pytest.raises(IdentityError, match="names nobody"):
        identity_of(pem)
    bundle = keys.Bundle("lab", "dev-1", "token", "h:1", "h:2", "h:3", keys.fingerprint(der).hex(), der)
    with pytest.raises(ConfigError, match="not a certificate"):
        keys.decode_bundle(keys.encode_bundle(bundle))


def test_a_request_of_an_unheard_of_version() -> None:
    csr = keys.make_csr(keys.new_tls_key())
    version = bytes.fromhex("020100")  # of the request's first field
    assert csr.index(version) < 10
    with pytest.raises(WrongShape, match="no PKCS#10"):
        csr_key(csr.replace(version, bytes.fromhex("020179"), 1))


@pytest.mark.parametrize(("wait", "heard"), [(float("nan"), None), (float("inf"), None), (-1.0, None), (0.0, 0.0), (2.5, 2.5)])
def test_a_wait_that_is_no_number_of_seconds(wait: float, heard: float | None) -> None:
    data = ErrorDetail(code="busy", message="words", retry_after_s=wait).SerializeToString()
    call: Any = SimpleNamespace(
        trailing_metadata=lambda: ((DETAIL_KEY, data),), code=lambda: grpc.StatusCode.ABORTED, details=lambda: ""
    )
    assert error_of(call).retry_after_s == heard


@pytest.mark.parametrize("load", [ClientState.load, MaskGroup.restore, Gathering.restore], ids=["device", "group", "keys"])
def test_a_stored_sum_whose_text_is_no_text(load: Any) -> None:
    """A damaged name is reported by msgspec with an error of another family."""
    for data in (b"\x81\xa5phase\xa6\xff\xff\xff\xff\xff\xff", b"\x81\xa5\xff\xff\xff\xff\xff\x00", b"", b"\xc1"):
        with pytest.raises(JournalError, match="damaged"):
            load(data)
