"""A device's own folder of models: what runs now, what ran before, and a switch between them that is one rename.

    HOME/deployed/TASK/<first 32 hex digits of the manifest's SHA-256>/     a model, as it was handed over
    HOME/deployed/TASK/in-force.json                                        which one runs, which one ran before

A model is copied, checked from the copy, run once on drawn inputs, and only then named in `in-force.json`, which is replaced
whole. Whatever fails before that rename leaves the former model in force, and so does a power cut.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgehold.client import received
from edgehold.client.identity import Credentials
from edgehold.client.received import Received
from edgehold.core import handover, keys
from edgehold.core.errors import ConfigError, Downgrade, FlError, JournalError, ModelRefused

POINTER = "in-force.json"
_DIGITS = 32


class InForce(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """current, previous: names of folders, "" for none. newest: `Manifest.age` of what was deployed last, which rolling back
    does not lower; since_s: of the switch, seconds since 1970.
    """

    current: str
    previous: str
    newest: tuple[float, int]
    since_s: float


class Deployed:
    """The models of one task. folder: HOME/deployed; task: name of the task."""

    def __init__(self, folder: Path, task: str, credentials: Credentials) -> None:
        self.folder, self.task, self._credentials = folder / task, task, credentials

    def in_force(self) -> InForce | None:
        """What is named; None where nothing was ever deployed. `JournalError` when the file is damaged."""
        try:
            data = (self.folder / POINTER).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JournalError(f"{self.folder / POINTER}: cannot be read: {error.strerror}") from None
        try:
            return msgspec.json.decode(data, type=InForce)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise JournalError(
                f"{self.folder / POINTER}: damaged; remove it and deploy a model again (older models are then accepted once)"
            ) from None

    def current(self) -> Received:
        """The model in force, checked anew; `ConfigError` where there is none."""
        now = self.in_force()
        if now is None:
            raise ConfigError(
                f"nothing is deployed for task {self.task!r}; deploy a model with `fl-client deploy FOLDER --task {self.task}`",
                field="task",
            )
        return received.opened(self.folder / now.current, self._credentials)

    def deploy(self, source: Path, allow_older: bool = False) -> Received:
        """Put a model in force; the former one is kept beside it.

        `BadSignature`, `IdentityError`, `ModelRefused`, `Downgrade` or `SelfCheckFailed` say why not, and nothing has changed.
        allow_older: the owner wants a model older than the newest that was ever deployed.
        """
        bundle = received.proved(source, self._credentials)
        if bundle.manifest.task != self.task:
            raise ModelRefused(
                f"{source}: a model of task {bundle.manifest.task!r}; it cannot serve {self.task!r}. Name its task with --task"
            )
        with self._alone():
            before = self.in_force()
            if before is not None and bundle.manifest.age < before.newest and not allow_older:
                raise Downgrade(
                    f"{source}: run {bundle.manifest.run} round {bundle.manifest.round}, submitted "
                    f"{_day(bundle.manifest.age[0])}, is older than what was deployed before (round {before.newest[1]} of a "
                    f"run of {_day(before.newest[0])}). "
                    "`fl-client rollback` goes back by one; --allow-older takes it all the same"
                )
            name = bundle.digest[:_DIGITS]
            target = self.folder / name
            if not target.exists():
                handover.place(target, bundle)
            try:
                # From the copy: what is checked is what will run.
                model = received.opened(target, self._credentials)
                received.self_check(model)
            except Exception:
                if before is None or name not in (before.current, before.previous):
                    shutil.rmtree(target, ignore_errors=True)
                raise
            if before is not None and before.current == name:
                return model
            age = bundle.manifest.age
            self._switch(InForce(name, "" if before is None else before.current, age, time.time()))
        return model

    def rollback(self) -> Received:
        """Put the previous model in force again, after checking it as if it were new; what ran until now becomes the previous.

        `ConfigError` where there is none; the refusals of `deploy` where it no longer passes, and nothing has changed then.
        """
        with self._alone():
            now = self.in_force()
            if now is None or not now.previous:
                raise ConfigError(f"task {self.task!r} has no previous model to go back to", field="task")
            model = received.opened(self.folder / now.previous, self._credentials)
            received.self_check(model)
            self._switch(InForce(now.previous, now.current, now.newest, time.time()))
        return model

    def _switch(self, now: InForce) -> None:
        keys.write_file(self.folder / POINTER, msgspec.json.encode(now), 0o644)
        for old in self.folder.iterdir():
            if old.is_dir() and old.name not in (now.current, now.previous):
                shutil.rmtree(old, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One deployment at a time."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class Rolling:
    """The model in force while a stream goes on: a model that is deployed meanwhile takes over between two blocks.

    The stream is read for the model it was opened with; one that reads otherwise waits for the next start.
    """

    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed
        self._seen = self._stamp()
        self.model = deployed.current()
        self.problem = ""

    def fresh(self) -> bool:
        """Whether another model has just taken over. One that cannot be opened is named in `problem` and not taken."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            model = self._deployed.current()
        except FlError as error:
            self.problem = error.message
            return False
        changed = model.bundle.digest != self.model.bundle.digest
        if _read_as(model) != _read_as(self.model):
            self.problem = "it has other columns, inputs or kind; start again to run it"
            return False
        self.model = model
        return changed

    def _stamp(self) -> tuple[int, int]:
        try:
            found = (self._deployed.folder / POINTER).stat()
        except OSError:
            return (0, 0)
        return (found.st_ino, found.st_mtime_ns)


def _read_as(model: Received) -> tuple[object, ...]:
    manifest = model.manifest
    return manifest.kind, manifest.columns, manifest.input


def tasks(folder: Path) -> list[str]:
    """Tasks for which something is deployed, in ascending order. folder: HOME/deployed."""
    return sorted(one.parent.name for one in folder.glob(f"*/{POINTER}"))


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(moment))
