"""Asking the evaluator process."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Schema
from edgehold.server.config import TaskEntry
from edgehold.server.store.blobs import BlobStore, FileBlob


class Evaluation:
    """The server's own copies of tasks. tasks: entries by task name; none means nothing can be scored here."""

    def __init__(self, tasks: Mapping[str, TaskEntry], folder: Path) -> None:
        self._tasks = tasks
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    def knows(self, task: str) -> bool:
        """Whether this server can score the task."""
        return task in self._tasks

    async def start(self) -> None:
        """Start the process (cheap: it loads nothing before the first question)."""
        if self._tasks:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "edgehold.server.rounds.evaluator",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
            )  # fmt: skip

    async def _ask(self, task: str, **request: Any) -> dict[str, Any]:
        if not self.knows(task):
            raise ConfigError(
                f"this server has no copy of task {task!r}; add [tasks.{task}] to server.toml, "
                "or give the plan a model.file and set evaluation.every = 0",
                field="run.task",
            )
        entry = self._tasks[task]
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise ConfigError("the evaluator is not running")
        async with self._turn:
            line = json.dumps({**request, "task": entry.task, "options": entry.options})
            process.stdin.write(line.encode() + b"\n")
            await process.stdin.drain()
            data = await process.stdout.readline()
        if not data:
            raise ConfigError("the evaluator process ended; see the log, then restart the server")
        reply: dict[str, Any] = json.loads(data)
        if "error" in reply:
            raise ConfigError(reply["error"])
        return reply

    async def initial(self, task: str, method: Mapping[str, Any], seed: int, store: BlobStore) -> tuple[Schema, FileBlob]:
        """First weights of a run, stored. method: the plan's [method] table."""
        path = self._folder / f"initial-{task}.raw"
        reply = await self._ask(task, do="initial", method=dict(method), seed=seed, out=str(path))
        blob = await asyncio.to_thread(lambda: store.put(np.fromfile(path, dtype="<f4")))
        path.unlink()
        return Schema.from_json(json.dumps(reply["schema"])), blob

    async def score(self, task: str, model: FileBlob) -> dict[str, float]:
        """Metrics of a model on the server's own test data."""
        reply = await self._ask(task, do="evaluate", weights=str(model.path))
        return {str(name): float(value) for name, value in reply["metrics"].items()}

    async def stop(self) -> None:
        """End the process."""
        if self._process and self._process.stdin:
            self._process.stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), 2.0)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
