"""Other products beside this one: each in an environment of its own, made once, outside the repository.

An environment lies in `~/.cache/edgehold/NAME-VERSION` (or under `XDG_CACHE_HOME`); a file `complete` in it says that its
installation ended well. Versions are pinned; torch always comes through this project's constraints, since an open range can
pull gigabytes of packages for graphics processors. What cannot be installed is told as a `ConfigError` with the reason.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame import ROOT, Options
from edgehold.core.errors import ConfigError

CONSTRAINTS = ROOT / "constraints.txt"
TORCH = "torch==2.13.0"
INSTALL_S = 900.0
LARGEST_BYTES = 16 << 30
"""Address space that a peer's process may take: what asks for more fails, instead of the machine."""


@dataclass(frozen=True, slots=True)
class Peer:
    """name, version: what the environment is called; packages: what pip installs, pinned; title: what tables say."""

    name: str
    version: str
    packages: tuple[str, ...]
    title: str

    @property
    def folder(self) -> Path:
        """Where its environment lies."""
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        return cache / "edgehold" / f"{self.name}-{self.version}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


FLOWER = Peer("flwr", "1.41.0", ("flwr==1.41.0",), "Flower 1.41.0")
FLOWER_SIMULATION = Peer("flwr-simulation", "1.41.0", ("flwr[simulation]==1.41.0", TORCH), "Flower 1.41.0 simulation")
BREACHING = Peer("breaching", "0.1.2", ("breaching==0.1.2", TORCH), "breaching 0.1.2")
BYZFL = Peer("byzfl", "0.0.11", ("byzfl==0.0.11", TORCH), "ByzFL 0.0.11")


def environment(peer: Peer, options: Options) -> Path:
    """The python of an environment with that peer, made if it is missing; `ConfigError` when it cannot be made."""
    done = peer.folder / "complete"
    if not done.exists():
        options.say(f"making {peer.folder} with {' '.join(peer.packages)} ...")
        make = [sys.executable, "-m", "venv", "--clear", str(peer.folder)]
        # One command, so that a peer's wish for any torch is met by the pinned one.
        fill = [str(peer.python), "-m", "pip", "install", "-q", "-c", str(CONSTRAINTS), *peer.packages]
        for command in (make, fill):
            try:
                ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ConfigError(f"{peer.title} is not installable: {error}") from error
            if ended.returncode:
                raise ConfigError(f"{peer.title} is not installable: {reason(ended.stderr)}")
        done.touch()
    return peer.python


def reason(stderr: str) -> str:
    """The line of an error output that says most: the last that begins as an error does, else the last."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR") or "Error:" in line]
    return (errors or lines or ["no message"])[-1][:200]


def measured(
    peer: Peer, script: str, arguments: Sequence[object], options: Options, limit_s: float, bytes_: int | None = None
) -> dict[str, Any]:
    """What a script of this folder, run by the peer's python, printed last, as JSON.

    One thread for arithmetic. limit_s: seconds it may take; bytes_: address space it may take, None: any.
    `ConfigError` when the peer cannot be installed, or when it fails, takes longer, or prints something else.
    """
    python = environment(peer, options)
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [str(python), str(Path(__file__).with_name(script)), *map(str, arguments)]
    before = None if bytes_ is None else lambda: resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))
    try:
        # A script ends what it started when it is asked to: it is asked first, and made to only then.
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | one, preexec_fn=before
        )
        out, err = _ended(child, limit_s)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"{peer.title}: {script} was not done after {limit_s:g} s") from error
    except OSError as error:
        raise ConfigError(f"{peer.title}: {error}") from error
    if child.returncode:
        raise ConfigError(f"{peer.title}: {reason(err)} (exit code {child.returncode})")
    return parsed(peer.title, out)


def parsed(who: str, out: str) -> dict[str, Any]:
    """The JSON object on the last line of an output; `ConfigError` when there is none."""
    last = (out.strip().splitlines() or [""])[-1]
    try:
        found = json.loads(last)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{who} printed {last[:80]!r} where a JSON object was expected")
    return found


def _ended(child: "subprocess.Popen[str]", limit_s: float) -> tuple[str, str]:
    try:
        return child.communicate(timeout=limit_s)
    except BaseException:
        child.terminate()
        try:
            child.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
        raise
