"""Many devices at once for measurements: enrolled in bulk, held by as many processes as wanted."""

import asyncio
import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from edgehold.attacks.testbed import Federation, Process, eventually
from edgehold.client import identity
from edgehold.core import keys
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server.identity.ca import CertificateAuthority

TASK = "edgehold.client.data.synthetic:make_task"
POLICY = (
    'allowed_methods = ["*"]\nallowed_tasks = ["*"]\nrounds_per_day = 1000000\nallow_unmasked = true\n'
    "max_payload_bytes = 1073741824\n"
)
FILES_PER_CLIENT = 12
AT_ONCE = 32


def federation(folder: Path, values: int) -> Federation:
    """A bed whose task has `values` float32 weights and trivial training."""
    return Federation(folder, tasks={"synthetic": (TASK, {"values": values, "device_index": -1})}, name="bench")


def enrol(bed: Federation, clients: Sequence[str], values: int) -> None:
    """Put clients on the roster of a running server and write their homes: what enrolment leaves, without its calls."""
    server = keys.load_version(bed.home / "identity", ["signing.key"], [])["signing.key"]
    server_key = keys.public_bytes(keys.signing_key(server, "signing.key"))
    authority = CertificateAuthority(bed.home / "ca")
    for index, client in enumerate(clients):
        signing, tls = Ed25519PrivateKey.generate(), keys.new_tls_key()
        fingerprint = keys.fingerprint(keys.public_bytes(signing))
        certificate = authority.issue("client", client, tls.public_key(), fingerprint)
        home = bed.folder / client
        home.mkdir(mode=0o700)
        identity.save(
            identity.assemble(
                server_address=bed.addresses["server"],
                renew_address=bed.addresses["renew"],
                key_pem=keys.key_pem(tls),
                chain_pem=certificate.public_bytes(Encoding.PEM),
                roots_pem=authority.trusted_pem(),
                signing_key=signing,
                server_signing_key=server_key,
            ),
            home / "identity",
        )
        (home / "policy.toml").write_text(POLICY, encoding="utf-8")
        bed.configure_client(client, {"synthetic": (TASK, {"values": values, "device_index": index % 1000})})

    async def add(stub: Stub) -> None:
        for start in range(0, len(clients), AT_ONCE):
            requests = [pb.AddClientRequest(client_id=client) for client in clients[start : start + AT_ONCE]]
            await asyncio.gather(*(stub.unary("AddClient", request, pb.AddClientResponse) for request in requests))

    bed.ask(add)


def start(bed: Federation, clients: Sequence[str], processes: int, python: Path = Path(sys.executable)) -> None:
    """Start the clients, spread over so many processes. python: their interpreter."""
    for number in range(processes):
        homes = [text for client in clients[number::processes] for text in ("--home", str(bed.folder / client))]
        name = f"process-{number}"
        command = [str(python), "-m", "edgehold.client", "run", *homes]
        bed.clients[name] = Process(command, bed.folder / f"{name}.log")
        bed.start_client(name)


@contextlib.contextmanager
def many_files(count: int) -> Iterator[None]:
    """Let the processes started meanwhile open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count), hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass(frozen=True, slots=True)
class Played:
    """Rounds of a run.

    seconds: as the server records them; wall: between one commit and the next, as a watcher sees them;
    facts: of the last round.
    """

    seconds: list[float]
    wall: list[float]
    facts: Mapping[str, float]


def play(bed: Federation, run: str, rounds: int, cohort: int, evaluate: int = 0) -> Played:
    """Submit a run and see it to its end. evaluate: the server scores its model every so many rounds; 0: never."""
    plan = (
        f'[run]\nname = "{run}"\nrounds = {rounds}\ntask = "synthetic"\nseed = 1\n'
        f"[cohort]\nsize = {cohort}\nquorum = {cohort}\nover_select = 1.0\nround_deadline_s = 600.0\n"
        f'[method]\nname = "fedavg"\n[evaluation]\nevery = {evaluate}\n'
    )
    seconds: dict[int, float] = {}
    times: dict[int, float] = {}

    def heard(event: pb.WatchRunResponse) -> None:
        if event.HasField("round") and event.round.state == "committed":
            times.setdefault(event.round.round, time.monotonic())
            seconds.setdefault(event.round.round, event.round.seconds)

    info = bed.run(plan, heard)
    if info.state != "finished" or len(seconds) != rounds:
        raise RuntimeError(f"run {run} is {info.state} after {len(seconds)} of {rounds} rounds: {info.error}")
    return Played(
        [seconds[number] for number in range(2, rounds + 1)],
        [times[number] - times[number - 1] for number in range(2, rounds + 1)],
        dict(info.latest.facts),
    )


def memory(pid: int) -> Mapping[str, int]:
    """Bytes of resident memory of a process: "now" and "peak"."""
    found: dict[str, Any] = {}
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "VmHWM"):
            found["now" if key == "VmRSS" else "peak"] = int(value.split()[0]) * 1024
    return found


def pid(process: Process) -> int:
    """Process id of a running daemon."""
    assert process.child is not None
    return process.child.pid


def until_logged(process: Process, word: str, began: float) -> float:
    """Seconds from `began` until the log of a process contains a word."""

    def there() -> bool:
        return word in process.log.read_text(encoding="utf-8")

    eventually(there, 30.0, f"{word!r} in {process.log}")
    return time.monotonic() - began


def stop(process: Process) -> None:
    """End a daemon and wait for it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.stop()
