"""Flower on this machine: a SuperLink and SuperNodes over TLS, trivial training; plain FedAvg, or sums masked by its SecAgg+.

Run as a file by the python of an environment with Flower: python flower_peer.py NODES VALUES ROUNDS plain|masked FOLDER. Prints
JSON: seconds and processor seconds per round, seconds until the SuperLink listens (`ready`) and until a SuperNode is active
(`connected`, median), bytes that an idle SuperLink and SuperNode hold (`idle_server`, `idle_client`).
Shares go to all nodes, and 6 of 10 give a secret back. TLS is on, and nodes authenticate by keys of their own.
"""

import contextlib
import ipaddress
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

HOST, FIRST_PORT = "127.0.0.1", 21000
PATIENCE_S = 600.0

PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "sumapp"
version = "1.0.0"
description = "Sums with and without masks"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "sumapp.both:server"
clientapp = "sumapp.both:client"

[tool.flwr.app.config]
rounds = 3
values = 1000
nodes = 2
masked = true
threshold = 2
out = ""
"""

APP = '''"""Both halves: every node adds its own constant."""

import json
import time

import numpy as np
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

server = ServerApp()


@server.main()
def main(grid, context):
    told = context.run_config
    start, times = np.zeros(int(told["values"]), np.float32), []

    def seen(number, parameters, config):
        times.append([time.time(), float(parameters[0][0])])
        with open(told["out"], "w") as file:
            json.dump(times, file)
        return 0.0, {}

    strategy = FedAvg(
        fraction_fit=1.0, fraction_evaluate=0.0, min_fit_clients=int(told["nodes"]), min_available_clients=int(told["nodes"]),
        initial_parameters=ndarrays_to_parameters([start]), evaluate_fn=seen,
    )
    config = ServerConfig(num_rounds=int(told["rounds"]))
    play = DefaultWorkflow()
    if told["masked"]:
        sums = SecAggPlusWorkflow(
            num_shares=int(told["nodes"]), reconstruction_threshold=int(told["threshold"]), max_weight=2.0, timeout=600.0
        )
        play = DefaultWorkflow(fit_workflow=sums)
    play(grid, LegacyContext(context=context, config=config, strategy=strategy))


class Adds(NumPyClient):
    def __init__(self, constant):
        self.constant = constant

    def fit(self, parameters, config):
        return [values + self.constant for values in parameters], 1, {}


def made(context):
    return Adds(np.float32((int(context.node_config["partition-id"]) + 1) / 1024)).to_client()


def masks(message, context, call_next):
    return secaggplus_mod(message, context, call_next) if context.run_config["masked"] else call_next(message, context)


client = ClientApp(client_fn=made, mods=[masks])
'''


def credentials(folder: Path, nodes: int) -> None:
    """A root, a certificate for loopback, a key pair per node."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.now(UTC)

    def issued(subject: str, public: Any, signer: Any, ca: bool) -> Any:
        name, issuer = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (subject, "root"))
        made = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(public)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(minutes=5))
        made = made.not_valid_after(now + timedelta(days=2))
        made = made.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if not ca:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return made.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    plain, private = serialization.NoEncryption(), serialization.PrivateFormat
    root, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    (folder / "root.pem").write_bytes(issued("root", root.public_key(), root, True))
    (folder / "server.pem").write_bytes(issued("localhost", server.public_key(), root, False))
    (folder / "server.key").write_bytes(server.private_bytes(serialization.Encoding.PEM, private.PKCS8, plain))
    for number in range(nodes):
        key = ec.generate_private_key(ec.SECP384R1())
        (folder / f"node-{number}").write_bytes(key.private_bytes(serialization.Encoding.PEM, private.OpenSSH, plain))
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        (folder / f"node-{number}.pub").write_bytes(public)


class Fleet:
    """A SuperLink and its nodes. folder: theirs alone."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder, self.nodes, self.processes = folder, nodes, list[subprocess.Popen[bytes]]()
        self.programs = Path(sys.executable).parent
        home = folder / "home"
        (home / ".flwr").mkdir(parents=True)
        self.ready, self.connected = 0.0, list[float]()
        self.environment = {
            **os.environ, "HOME": str(home), "FLWR_HOME": str(home / ".flwr"), "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1", "PATH": f"{self.programs}:{os.environ['PATH']}",
        }  # fmt: skip
        credentials(folder, nodes)
        (home / ".flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "{HOST}:{FIRST_PORT}"\n'
            f'root-certificates = "{folder / "root.pem"}"\n'
        )

    def begin(self) -> None:
        """Everybody is there once this returns."""
        keys = [f"--ssl-{what}={self.folder / file}" for what, file in
                (("ca-certfile", "root.pem"), ("certfile", "server.pem"), ("keyfile", "server.key"))]  # fmt: skip
        began = time.monotonic()
        self._start("link", "flower-superlink", *keys, "--enable-supernode-auth", f"--host={HOST}", f"--port={FIRST_PORT}")
        _until(lambda: _listens(FIRST_PORT), "the SuperLink")
        self.ready = time.monotonic() - began
        for number in range(self.nodes):
            self.say("supernode", "register", str(self.folder / f"node-{number}.pub"), "bench")
        for number in range(self.nodes):
            began = time.monotonic()
            self._start(
                f"node-{number}", "flower-supernode", f"--superlink={HOST}:{FIRST_PORT}", f"--host={HOST}",
                f"--port={FIRST_PORT + 1 + number}", f"--root-certificates={self.folder / 'root.pem'}",
                f"--auth-supernode-private-key={self.folder / f'node-{number}'}", f"--node-config=partition-id={number}",
            )  # fmt: skip
            _until(lambda here=number + 1: self._active() >= here, f"node {number}")
            self.connected.append(time.monotonic() - began)
        time.sleep(3)

    def told(self) -> dict[str, float]:
        """How long everybody took to be there, and what they hold while nothing is to be done."""
        link, *nodes = (held(process.pid) for process in self.processes)
        return {
            "ready": self.ready, "connected": median(self.connected), "idle_server": link, "idle_client": median(nodes),
        }  # fmt: skip

    def _active(self) -> int:
        log = (self.folder / "link.log").read_text(errors="replace")
        return len(set(re.findall(r"ActivateNode\][^\n]*?node_id=(\d+)", log)))

    def _start(self, name: str, program: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [str(self.programs / program), *arguments],
                    stdout=log,
                    stderr=log,
                    env=self.environment,
                    cwd=self.folder,
                    start_new_session=True,
                )  # fmt: skip
            )

    def say(self, *arguments: str) -> str:
        """One command of `flwr`."""
        done = subprocess.run(
            [str(self.programs / "flwr"), *arguments], env=self.environment, cwd=self.folder, capture_output=True, text=True,
            check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"flwr {' '.join(arguments[:2])}: {done.stdout} {done.stderr}")
        return done.stdout

    def play(self, values: int, rounds: int, masked: bool) -> dict[str, float]:
        """Medians over all rounds but the first."""
        app, out = self.folder / "app", self.folder / "times.json"
        (app / "sumapp").mkdir(parents=True)
        (app / "pyproject.toml").write_text(PROJECT)
        (app / "sumapp" / "__init__.py").write_text("")
        (app / "sumapp" / "both.py").write_text(APP)
        threshold = -(-6 * self.nodes // 10)
        told = (
            f'rounds={rounds} values={values} nodes={self.nodes} masked={str(masked).lower()} threshold={threshold} out="{out}"'
        )
        self.say("run", str(app), "bench", "--run-config", told)
        used: list[float] = []
        began = time.time()
        while len(used) < rounds + 1:
            time.sleep(0.05)
            done = len(json.loads(out.read_text() or "[]")) if out.exists() else 0
            while len(used) < done:
                used.append(self._processor())
            if time.time() - began > PATIENCE_S:
                raise TimeoutError(f"{len(used)} of {rounds + 1} rounds in {PATIENCE_S:g} s; {self._told()}")
        times = json.loads(out.read_text())
        wall = [later[0] - earlier[0] for earlier, later in zip(times[1:], times[2:], strict=False)]
        processor = [later - earlier for earlier, later in zip(used[1:], used[2:], strict=False)]
        wanted = rounds * sum((number + 1) / 1024 for number in range(self.nodes)) / self.nodes
        if abs(times[-1][1] - wanted) > 0.01 * rounds:
            raise RuntimeError(f"after {rounds} rounds a value is {times[-1][1]}, expected {wanted}")
        return {"seconds": median(wall), "processor": median(processor), "slowest": max(wall)}

    def _told(self) -> str:
        return (self.folder / "link.log").read_text(errors="replace")[-500:]

    def _processor(self) -> float:
        """Processor seconds of all processes so far, with those that have ended."""
        tick, total = os.sysconf("SC_CLK_TCK"), 0.0
        for pid in (one for process in self.processes for one in family(process.pid)):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += sum(int(field) for field in fields[11:15]) / tick
            except OSError:
                continue
        return total

    def end(self) -> None:
        """Nobody is left behind."""
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        time.sleep(2)
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def family(pid: int) -> list[int]:
    """A process and all it has started that still run."""
    found, waiting = list[int](), [pid]
    while waiting:
        one = waiting.pop()
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
        found.append(one)
    return found


def held(pid: int) -> int:
    """Bytes of memory of a process and all it has started, pages that are shared divided among those who share them."""
    total = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _until(true: Any, what: str) -> None:
    ends = time.time() + 120
    while not true():
        if time.time() > ends:
            raise TimeoutError(f"{what} is not there after two minutes")
        time.sleep(0.1)


if __name__ == "__main__":
    nodes, values, rounds, masked, folder = sys.argv[1:]
    # Whoever ends this script means its SuperLink and SuperNodes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    fleet = Fleet(Path(folder), int(nodes))
    try:
        fleet.begin()
        idle = fleet.told()
        print(json.dumps(idle | fleet.play(int(values), int(rounds), masked == "masked")))
    finally:
        fleet.end()
