"""The backend of containers: images of our own, Docker Compose, a network for each device."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

from edgehold.attacks.demo.progress import Screen
from edgehold.attacks.multinode import compose, ground
from edgehold.attacks.multinode.backend import Ended, NotPossible, OnRound
from edgehold.attacks.multinode.config import Testbed
from edgehold.attacks.multinode.links import Links
from edgehold.attacks.multinode.shaper import SERVER
from edgehold.attacks.testbed import eventually

DEPLOY = Path(os.environ.get("EDGEHOLD_DEPLOY", "deploy")).resolve()
"""The folder deploy/ of a clone: files of the testbed and of the images."""
HOME = "/etc/edgehold"
CONNECTED_S = 300.0
PROFILES = ("--profile", "clean", "--profile", "attack", "--profile", "monitoring")


def why_not() -> str:
    """What keeps this machine from running containers; "" for nothing."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    for command, wanted in (
        (["docker", "version"], "a Docker engine"),
        (["docker", "compose", "version"], "Docker Compose v2"),
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except subprocess.TimeoutExpired:
            return f"{wanted} does not answer"
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            return f"{wanted} is needed; `{' '.join(command)}` says: {said}"
    return ""


def revision(folder: Path) -> str:
    """The commit of a clone, with "-dirty" where it is not all of it; "unknown" outside one. As deploy/images/build says it."""
    done = _quiet("git", "-C", str(folder), "describe", "--always", "--dirty")
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def stale(image: str, now: str) -> bool:
    """Whether an image is not there, or not of this revision. What is not committed may be anything: such images never are."""
    label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    found = _quiet("docker", "image", "inspect", "--format", label, image)
    return found.returncode != 0 or found.stdout.strip() != now or now.endswith("-dirty")


class ComposeBackend:
    """folder: compose.yaml, what it mounts, and bundles."""

    def __init__(self, bed: Testbed, folder: Path, show: Screen) -> None:
        self._bed, self._folder, self._show = bed, folder, show
        self._project = f"eh-{os.getpid():x}"
        self._base = os.environ.get("EDGEHOLD_SUBNET", "10.90")
        self._file: Path | None = None
        self._links: Links | None = None
        self._running = list(bed.clients)

    def up(self) -> None:
        """See `Backend`. Images that are missing, or of another revision than this clone, are built first."""
        if reason := why_not():
            raise NotPossible(reason)
        if not self._bed.link.plain and (reason := Links.why_not()):
            raise NotPossible(f"links of containers cannot be shaped: {reason}")
        self._build()
        self._file = compose.write(self._bed, self._folder.resolve(), self._project, str(DEPLOY / "monitoring"), self._base)
        self._compose("up", "--detach", "--wait", SERVER, *(["prometheus", "grafana"] if self._bed.testbed.monitoring else []))
        self._enrol()
        self._compose("up", "--detach", "--no-recreate", *self._running)
        self._wait(len(self._bed.clients))
        self._shape()
        ground.note(
            self._folder, "compose", self._bed.clients, control=str(self._links.control.resolve()) if self._links else "",
            project=self._project, base=self._base, file=str(self._file),
        )  # fmt: skip

    def turn(self) -> None:
        """See `Backend`."""
        self._compose("stop", *self._bed.liars)
        self._compose("rm", "--force", *self._bed.liars)
        self._wait(self._bed.testbed.honest)
        liars = [compose.twin(client) for client in self._bed.liars]
        self._running = [*self._bed.clients[: self._bed.testbed.honest], *liars]
        self._compose("up", "--detach", "--no-recreate", *liars)
        self._wait(len(self._bed.clients))
        self._shape()

    def run(self, name: str, plan: str, on_round: OnRound) -> Ended:
        """See `Backend`. The plan is the one that was rendered."""
        command = self._command("exec", "--no-TTY", SERVER, "fl-server", "run", f"{HOME}/plans/{name}.toml", "--json")
        last: dict[str, Any] = {}
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            for line in child.stdout:
                event = json.loads(line)
                if event["run"]["state"]:
                    last = event["run"]
                if event["round"]["state"] == "committed":
                    on_round(int(event["round"]["round"]), {k: float(v) for k, v in event["round"]["facts"].items()})
            said = child.stderr.read()
        if not last:
            raise RuntimeError(f"run {name}: {said.strip()[-500:]}")
        return Ended(last["state"], float(last["seconds"]), last["error"])

    def fetch(self, run: str, path: Path) -> None:
        """See `Backend`."""
        script = f"fl-server models {run} --out /tmp/model >/dev/null && cat /tmp/model && rm /tmp/model"
        done = subprocess.run(self._command("exec", "--no-TTY", SERVER, "sh", "-c", script), capture_output=True)
        if done.returncode:
            raise RuntimeError(f"the model of {run}: {done.stderr.decode(errors='replace').strip()[-500:]}")
        path.write_bytes(done.stdout)

    def export(self, run: str, folder: Path) -> None:
        """See `Backend`."""
        script = f"fl-server export {run} --out /tmp/model >/dev/null && tar -C /tmp/model -cf - . && rm -r /tmp/model"
        done = subprocess.run(self._command("exec", "--no-TTY", SERVER, "sh", "-c", script), capture_output=True)
        if done.returncode:
            raise RuntimeError(f"the model of {run} for devices: {done.stderr.decode(errors='replace').strip()[-500:]}")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
            files.extractall(folder, filter="data")

    def deploy(self, folder: Path, client: str) -> str:
        """See `Backend`."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as files:
            files.add(folder, arcname="model")
        script = "tar -C /tmp -xf - && fl-client deploy /tmp/model --json && rm -r /tmp/model"
        command = self._command("exec", "--no-TTY", client, "sh", "-c", script)
        done = subprocess.run(command, input=packed.getvalue(), capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{client} refuses the model: {done.stderr.decode(errors='replace').strip()[-500:]}")
        return str(json.loads(done.stdout)["manifest_sha256"])

    def cut(self, client: str) -> None:
        """See `Backend`."""
        disconnect(self._project, self._container(client), client)

    def heal(self, client: str) -> None:
        """See `Backend`."""
        connect(self._project, self._container(client), client, compose.address(self._bed, client, self._base))

    def logs(self, folder: Path) -> None:
        """See `Backend`."""
        if self._file is None:
            return
        liars = [compose.twin(client) for client in self._bed.liars]
        for service in (SERVER, *self._bed.clients, *liars):
            said = subprocess.run(self._command("logs", "--no-color", "--no-log-prefix", service), capture_output=True)
            if said.stdout:
                (folder / f"{service}.log").write_bytes(said.stdout)

    def down(self) -> None:
        """See `Backend`."""
        ground.forget(self._folder)
        if self._links is not None:
            self._links.close()
        if self._file is not None:
            subprocess.run(self._command("down", "--volumes", "--timeout", "10"), capture_output=True)

    def _build(self) -> None:
        images, now = self._bed.images, revision(DEPLOY)
        # Whoever names images of his own has them already.
        wanted = [
            image
            for image, given in ((images.server, "EDGEHOLD_SERVER_IMAGE"), (images.devices, "EDGEHOLD_DEVICE_IMAGE"))
            if not os.environ.get(given)
        ]
        missing = [one for one in dict.fromkeys(wanted) if stale(images.name(one), now)]
        if not missing:
            return
        self._show.say(f"building {' and '.join(self._bed.images.name(one) for one in missing)}")
        command = [str(DEPLOY / "images" / "build"), *(word for one in missing for word in ("--only", one))]
        command += ["--tag", self._bed.images.name("").rpartition(":")[2]]
        if base := os.environ.get("EDGEHOLD_BASE_IMAGE"):
            command += ["--base", base]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the images cannot be built: {done.stderr.strip()[-1000:]}")

    def _enrol(self) -> None:
        """Mint a bundle for each device where the enrolment key is: in the server's container."""
        life_h = self._bed.enrolment.token_life_s / 3600.0
        script = f"for client; do fl-server token $client --life-h {life_h:g} --json || exit 1; done"
        done = self._compose("exec", "--no-TTY", SERVER, "sh", "-c", script, "sh", *self._bed.clients)
        for line in done.splitlines():
            said = json.loads(line)
            self._keep(said["client"], said["bundle"])

    def _keep(self, client: str, bundle: str) -> None:
        path = self._folder / "secrets" / compose.bundle(client)
        path.write_text(bundle, encoding="ascii")
        # The container's user is another than ours; the folder around it is ours alone.
        path.chmod(0o444)

    def _wait(self, count: int) -> None:
        def connected() -> bool:
            said = subprocess.run(
                self._command("exec", "--no-TTY", SERVER, "fl-server", "status", "--json"), capture_output=True, text=True
            )
            if said.returncode == 0 and json.loads(said.stdout)["clients_connected"] == count:
                return True
            time.sleep(0.5)
            return False

        eventually(connected, CONNECTED_S, f"{count} connected devices")

    def _shape(self) -> None:
        """Links of the containers that run now; those of containers that were replaced are gone with them."""
        if self._bed.link.plain and Links.why_not():
            return
        if self._links is not None:
            self._links.close()
        addresses = {client: compose.address(self._bed, client, self._base) for client in self._bed.clients}
        specs = {SERVER: (_namespace(self._container(SERVER)), "")}
        specs |= {client: (_namespace(self._container(client)), address) for client, address in addresses.items()}
        self._links = Links(self._folder, specs, self._bed.testbed.seed)
        for client in self._bed.clients:
            self._links.set(client, self._bed.link)

    def _container(self, node: str) -> str:
        return f"{self._project}-{compose.twin(node) if compose.twin(node) in self._running else node}-1"

    def _command(self, *words: str) -> list[str]:
        assert self._file is not None, "not rendered"
        return ["docker", "compose", "--ansi", "never", "--progress", "quiet", *PROFILES, "--file", str(self._file), *words]

    def _compose(self, *words: str) -> str:
        done = subprocess.run(self._command(*words), capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip()[-1000:]
            hint = (
                "; another network has these addresses: set EDGEHOLD_SUBNET, for example to 10.91" if "overlap" in said else ""
            )
            raise RuntimeError(f"docker compose {words[0]}: {said}{hint}")
        return done.stdout


def container_of(project: str, client: str) -> str:
    """The container that is this device now: its own, or its lying twin's."""
    lying = f"{project}-{compose.twin(client)}-1"
    return f"{project}-{client}-1" if _quiet("docker", "inspect", lying).returncode else lying


def disconnect(project: str, container: str, client: str) -> None:
    """Take a device's container off its network."""
    _checked("docker", "network", "disconnect", f"{project}_{compose.link(client)}", container)


def connect(project: str, container: str, client: str, address: str) -> None:
    """And put it back, at the address it had."""
    _checked("docker", "network", "connect", "--ip", address, f"{project}_{compose.link(client)}", container)


def _namespace(container: str) -> str:
    pid = _checked("docker", "inspect", "--format", "{{.State.Pid}}", container).strip()
    path = f"/proc/{pid}/ns/net"
    if not Path(path).exists():
        raise NotPossible("the containers do not run on this machine's own kernel; their links cannot be shaped from here")
    return path


def _quiet(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


def _checked(*command: str) -> str:
    done = _quiet(*command)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])}: {done.stderr.strip()[-500:]}")
    return done.stdout
