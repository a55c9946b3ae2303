"""Structured logs on stderr: one JSON object a line, or plain text for people. Payload values never stand in them.

Text that came from the other side goes through `peer_text` first: escaped, and cut to 256 bytes.
"""

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Literal

LogFormat = Literal["text", "json"]

CLIENT: ContextVar[str] = ContextVar("client", default="")
"""Which of the process's clients is at work; stands in every line it logs."""

PEER_TEXT_LIMIT = 256
"""Bytes of somebody else's text that one log field may hold."""


def peer_text(value: str) -> str:
    """`value` from the other side, made harmless: no control characters, at most 256 bytes of ASCII."""
    return value[:PEER_TEXT_LIMIT].encode("unicode_escape")[:PEER_TEXT_LIMIT].decode("ascii")


def event(log: logging.Logger, level: int, name: str, **fields: object) -> None:
    """Log the event `name` with its fields. Values are numbers, names or short texts."""
    if log.isEnabledFor(level):
        client = {"client": CLIENT.get()} if CLIENT.get() else {}
        log.log(level, name, extra={"fields": client | fields})


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _utc(record.created), "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={value}" for key, value in getattr(record, "fields", {}).items())
        line = f"{_utc(record.created)} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def setup(format: LogFormat, level: str = "info") -> None:
    """Send everything this process logs to stderr in `format`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
