"""Where a testbed runs, written beside it, so that another command (`deploy/chaos`) finds its links."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgehold.core.errors import ConfigError

FILE = "testbed.json"


def note(folder: Path, backend: str, clients: Sequence[str], **more: str) -> None:
    """The testbed in this folder is up."""
    (folder / FILE).write_text(json.dumps({"backend": backend, "clients": list(clients), **more}) + "\n", encoding="utf-8")


def forget(folder: Path) -> None:
    """It is down."""
    (folder / FILE).unlink(missing_ok=True)


def find(folder: Path) -> dict[str, Any]:
    """What was noted; `ConfigError` when no testbed with links of its own is up there."""
    try:
        found: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(
            f"{folder}: no testbed with links of its own is up here; start one with deploy/testbed --backend netns or compose"
        ) from None
    return found
