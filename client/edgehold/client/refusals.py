"""Why a task is not done, or its update not counted: what the device's own log says, and what the server is told."""

import traceback

from edgehold.core.errors import BudgetSpent, ConfigError, FlError, LedgerRolledBack
from edgehold.core.logs import peer_text
from edgehold.proto.strict import TEXT_LIMIT
from edgehold.proto.v1.control_pb2 import TaskId

_HIDDEN: dict[type[FlError], str] = {
    ConfigError: "the device has no working task or method of that name; its own log says more",
    BudgetSpent: "the privacy budget of the data does not allow this round",
    LedgerRolledBack: "the device's privacy ledger is older than one it showed before",
}
"""What a server is told instead of the message."""


def for_the_log(error: FlError) -> dict[str, object]:
    """Code and reason; and where it happened in the device's own code, never what that said: an exception's text may quote
    private data.
    """
    fields: dict[str, object] = {"code": error.code, "reason": peer_text(error.message)}
    if error.__cause__ is not None:
        frames = traceback.extract_tb(error.__cause__.__traceback__)[-3:]
        fields["at"] = " > ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
    return fields


def for_the_server(error: FlError) -> str:
    """The reason. What stands in client.toml and in the ledger is the owner's business."""
    hidden = next((said for kind, said in _HIDDEN.items() if isinstance(error, kind)), None)
    return peer_text(hidden or error.message)[:TEXT_LIMIT]


def names(task: TaskId) -> dict[str, object]:
    """Which task it is about."""
    return {"run": peer_text(task.run), "round": task.round, "attempt": task.attempt}
