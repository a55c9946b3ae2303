"""Key files, versioned folders, bundles."""

import os
import re
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from edgehold.core import keys
from edgehold.core.errors import ConfigError, IdentityError, JournalError
from edgehold.core.manifest import signing_input
from edgehold.server.identity.ca import CertificateAuthority


def test_a_written_key_file_is_ours_and_0600_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys.write_file(tmp_path / "a.key", b"secret")
    finally:
        os.umask(before)
    info = (tmp_path / "a.key").stat()
    assert stat.S_IMODE(info.st_mode) == 0o600
    assert info.st_uid == os.geteuid()
    assert keys.read_private(tmp_path / "a.key") == b"secret"
    assert [path.name for path in tmp_path.iterdir()] == ["a.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o601, 0o644, 0o666, 0o777])
def test_a_key_file_open_to_others_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.key"
    keys.write_file(path, b"secret")
    path.chmod(mode)
    with pytest.raises(IdentityError, match=re.escape(f"mode {mode:04o}")) as caught:
        keys.read_private(path)
    assert f"chmod 600 {path}" in caught.value.message


def test_a_key_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.key"
    keys.write_file(path, b"secret")
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(IdentityError, match=f"owned by user {owner}"):
        keys.read_private(path)


def test_links_folders_pipes_and_nothing_are_refused(tmp_path: Path) -> None:
    keys.write_file(tmp_path / "a.key", b"secret")
    (tmp_path / "link").symlink_to("a.key")
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "folder", "pipe", "nothing"):
        with pytest.raises(IdentityError, match=name):
            keys.read_private(tmp_path / name)


def test_a_full_disk_is_a_journal_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    keys.write_file(tmp_path / "a.key", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(JournalError, match="No space left"):
        keys.write_file(tmp_path / "a.key", b"new")
    with pytest.raises(JournalError, match="No space left"):
        keys.save_version(tmp_path / "folder", {"a": (b"new", 0o600)})
    assert (tmp_path / "a.key").read_bytes() == b"old"


CRASH = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from edgehold.core import keys

    folder, point = Path(sys.argv[1]), 0
    def files(word):
        return {"tls.key": (word, 0o600), "tls.pem": (word, 0o644)}
    for point in range(100):
        place = folder / str(point)
        keys.save_version(place, files(b"old"))
        child = os.fork()
        if child == 0:
            left = point
            def hook(event, args):
                global left
                if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "fcntl.flock") or event == "fsync":
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left -= 1
            real = os.fsync
            def fsync(handle):
                hook("fsync", ())
                real(handle)
            os.fsync = fsync
            sys.addaudithook(hook)
            keys.save_version(place, files(b"new"))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            print(point)
            break
    """
)


def test_killed_at_every_step_the_key_still_fits_its_certificate(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path)], capture_output=True, text=True, check=True)
    points = int(done.stdout)
    found = []
    for point in range(points + 1):
        files = keys.load_version(tmp_path / str(point), ["tls.key"], ["tls.pem"])
        assert files["tls.key"] == files["tls.pem"]
        found.append(files["tls.key"])
        # The next save works from whatever the kill left behind, and clears it away.
        keys.save_version(tmp_path / str(point), {"tls.key": (b"next", 0o600)})
        assert len(list((tmp_path / str(point)).glob("v-*"))) == 1
    # Old until one step, new from there on, and both occur: the kill really struck in between.
    turn = found.index(b"new")
    assert 5 < turn < points
    assert found == [b"old"] * turn + [b"new"] * (points + 1 - turn)


def test_readers_see_one_generation_while_a_writer_replaces_it(tmp_path: Path) -> None:
    def save(number: int) -> None:
        keys.save_version(tmp_path, {name: (str(number).encode(), 0o600) for name in ("tls.key", "tls.pem")})

    save(0)
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            found = keys.load_version(tmp_path, ["tls.key"], ["tls.pem"])
            if found["tls.key"] != found["tls.pem"]:
                torn.append(found)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(100):
            save(number)
    finally:
        stop.set()
        reader.join()
    assert not torn


def test_a_damaged_or_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="enrol first"):
        keys.load_version(tmp_path, ["tls.key"], [])
    keys.save_version(tmp_path, {"tls.key": (b"a", 0o600)})
    with pytest.raises(IdentityError, match="missing"):
        keys.load_version(tmp_path, ["tls.key", "signing.key"], [])
    (tmp_path / keys.POINTER).write_text("../elsewhere")
    with pytest.raises(IdentityError, match="damaged"):
        keys.load_version(tmp_path, ["tls.key"], [])


def test_keys_round_trip_and_other_kinds_are_refused() -> None:
    tls, signing = keys.new_tls_key(), Ed25519PrivateKey.generate()
    assert keys.tls_key(keys.key_pem(tls), "x").public_key() == tls.public_key()
    assert keys.public_bytes(keys.signing_key(keys.key_pem(signing), "x")) == keys.public_bytes(signing)
    for pem in (keys.key_pem(signing), keys.key_pem(ec.generate_private_key(ec.SECP384R1())), b"", b"garbage"):
        with pytest.raises(IdentityError, match="x: not a"):
            keys.tls_key(pem, "x")
    with pytest.raises(IdentityError, match="x: not an Ed25519"):
        keys.signing_key(keys.key_pem(tls), "x")
    assert not keys.is_p256(rsa.generate_private_key(65537, 2048).public_key())


def test_the_enrolment_statement_by_hand() -> None:
    # label, root fingerprint, client id, request; each after its length in 4 bytes
    expected = b"\x11\0\0\0edgehold enrol v1" + b"\x02\0\0\0rr" + b"\x04\0\0\0dev1" + b"\x03\0\0\0csr"
    assert keys.enrol_statement(b"rr", "dev1", b"csr") == expected == signing_input("enrol v1", [b"rr", "dev1", b"csr"])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> keys.Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    der = CertificateAuthority.create(folder / "ca", "fed").current().public_bytes(Encoding.DER)
    return keys.Bundle("fed", "dev1", "canary-token", "a:1", "a:2", "a:3", keys.fingerprint(der).hex(), der)


def test_a_bundle_survives_being_pasted(bundle: keys.Bundle) -> None:
    line = keys.encode_bundle(bundle)
    assert re.fullmatch(r"edgehold1\.[A-Za-z0-9_-]+", line)
    assert keys.decode_bundle(line) == bundle
    wrapped = "  " + "\r\n".join(textwrap.wrap(line, 60)) + "\n"
    assert keys.decode_bundle(wrapped) == bundle
    assert "canary-token" not in repr(bundle)


@given(where=st.integers(min_value=0), what=st.characters(codec="utf-8"), cut=st.booleans())
def test_a_damaged_bundle_is_refused_without_quoting_it(bundle: keys.Bundle, where: int, what: str, cut: bool) -> None:
    line = keys.encode_bundle(bundle)
    where %= len(line)
    damaged = line[:where] if cut else line[:where] + what + line[where + 1 :]
    try:
        found = keys.decode_bundle(damaged)
    except ConfigError as error:
        found, refusal = None, error
    if found is None:
        assert refusal.message.startswith("bundle: ")
        assert line[20:40] not in refusal.message
        assert refusal.__cause__ is None
    else:
        # White space means nothing, nor do the last bits of the last character: what decodes at all is the same bundle.
        assert found == bundle
        assert damaged == line or where == len(line) - 1


def test_a_bundle_with_another_root_than_its_fingerprint_is_refused(bundle: keys.Bundle, tmp_path: Path) -> None:
    stranger = CertificateAuthority.create(tmp_path / "ca", "fed").current().public_bytes(Encoding.DER)
    for changed in (
        keys.Bundle("fed", "dev1", "t", "a:1", "a:2", "a:3", bundle.root_fingerprint, stranger),
        keys.Bundle("fed", "dev1", "t", "a:1", "a:2", "a:3", "00" * 32, bundle.root),
        keys.Bundle("fed", "dev1", "t", "a:1", "a:2", "a:3", keys.fingerprint(b"junk").hex(), b"junk"),
        keys.Bundle("fed", "../dev1", "t", "a:1", "a:2", "a:3", bundle.root_fingerprint, bundle.root),
    ):
        with pytest.raises(ConfigError, match="bundle"):
            keys.decode_bundle(keys.encode_bundle(changed))
