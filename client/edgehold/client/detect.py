"""`fl-client detect`: a model file and a live stream of records to alarms, with NumPy alone."""

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgehold.client import infer, model_file, received
from edgehold.client.config import Home, call, load_config
from edgehold.client.deployed import Rolling
from edgehold.client.live import Bad, Block, CsvReader, JsonReader, Reader, lines
from edgehold.client.received import Received
from edgehold.client.stream import nobody_reads, opened, stopping
from edgehold.core.anomaly import NEVER, Detector, Doubles
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.tables import TableTask


@dataclass
class Counts:
    """What a stream came to. records: scored ones; bad: skipped ones; seconds: from the first byte wanted to the end."""

    records: int = 0
    alarms: int = 0
    bad: int = 0
    seconds: float = 0.0
    threshold: float = 0.0

    def told(self) -> str:
        """One line."""
        return f"{self.records} records; {self.alarms} alarms above {self.threshold:.6g}; {self.bad} bad rows skipped"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Wish:
    """What to detect with. model: a model file, a folder that was handed over, or "deployed:TASK". columns: in the model's
    order, () for those of the stream; format: "" to tell by the first byte.
    """

    model: str | Path
    columns: Sequence[str] = ()
    threshold: float | None = None
    format: Literal["", "csv", "jsonl"] = ""
    delimiter: str = ","
    alarms_only: bool = False
    skip_bad: bool = False


def columns_of(home: Path, task: str) -> tuple[str, ...]:
    """The columns that a task of client.toml has; `ConfigError` where it has none."""
    table = load_config(Home(home).config).tasks.get(task)
    if table is None:
        raise ConfigError(f"{Home(home).config} has no [tasks.{task}]; name the columns with --columns instead", field="task")
    made = call(table.task, table.options, f"tasks.{task}.task")
    records = (made.train_data or made.test_data) if isinstance(made, TableTask) else None
    if records is None or not records.features:
        raise ConfigError(f"task {task!r} says no names of columns; give them with --columns", field="task")
    return tuple(records.features)


class Scorer(Protocol):
    """What tells alarms from other records."""

    @property
    def threshold(self) -> float:
        """A record whose score is above it is an alarm."""

    @property
    def count(self) -> int:
        """Columns of a record."""

    def scores(self, x: NDArray[Any]) -> Doubles:
        """(n,) scores of raw records (n, count)."""

    def check(self, columns: Sequence[str], whose: str) -> None:
        """`ConfigError` or `ModelRefused` when the model was fitted to other columns, or to these in another order."""


@dataclass(frozen=True)
class FromFile:
    """A detector of a model file, scored with NumPy."""

    detector: Detector

    @property
    def threshold(self) -> float:
        """See `Scorer`."""
        return self.detector.threshold

    @property
    def count(self) -> int:
        """See `Scorer`."""
        return len(self.detector.mean)

    def scores(self, x: NDArray[Any]) -> Doubles:
        """See `Scorer`."""
        return self.detector.scores(x)

    def check(self, columns: Sequence[str], whose: str) -> None:
        """See `Scorer`."""
        self.detector.reading.check(columns, whose)


@dataclass
class HandedOver:
    """A detector that was handed over, run with onnxruntime; what is deployed meanwhile takes over between two blocks.

    own: a threshold of the caller's instead of the model's.
    """

    found: Rolling | Received
    own: float | None = None

    def __post_init__(self) -> None:
        _detects(self.model)

    @property
    def model(self) -> Received:
        """The one in force."""
        return self.found.model if isinstance(self.found, Rolling) else self.found

    @property
    def threshold(self) -> float:
        """See `Scorer`."""
        threshold = self.model.manifest.threshold
        return self.own if self.own is not None else threshold if threshold is not None else math.inf

    @property
    def count(self) -> int:
        """See `Scorer`."""
        return int(np.prod(self.model.graph.shape))

    def scores(self, x: NDArray[Any]) -> Doubles:
        """See `Scorer`."""
        if isinstance(self.found, Rolling):
            self.found.fresh()
            if self.found.problem:
                print(f"deployed model not taken over: {self.found.problem}", file=sys.stderr)
                self.found.problem = ""
        return np.asarray(self.model.graph(x), dtype=np.float64).reshape(len(x))

    def check(self, columns: Sequence[str], whose: str) -> None:
        """See `Scorer`."""
        received.columns_check(self.model.manifest, tuple(columns), whose)


def _detects(model: Received) -> None:
    if model.manifest.threshold is None:
        raise ConfigError(
            f"{model.graph.where}: a {model.manifest.method} model, which detects nothing; run it with `fl-client infer`",
            field="model",
        )


def load(wish: Wish, home: Path | None = None) -> Scorer:
    """The model, checked against the columns; `ConfigError` when it is none, or has no threshold yet.

    home: of this device, whose identity says which signatures count; only for models that were handed over.
    """
    if wish.threshold is not None and not math.isfinite(wish.threshold):
        raise ConfigError(f"--threshold {wish.threshold}; expected a finite number", field="threshold")
    made: Scorer
    if str(wish.model).startswith(infer.PREFIX) or Path(wish.model).is_dir():
        made = HandedOver(infer.follow(str(wish.model), home or Path()), wish.threshold)
    else:
        made = FromFile(_from_file(wish))
    if wish.columns and len(wish.columns) != made.count:
        raise ConfigError(f"{len(wish.columns)} columns; the model has {made.count}", field="columns")
    made.check(tuple(wish.columns), "--columns or --task")
    return made


def _from_file(wish: Wish) -> Detector:
    schema, weights, about = model_file.read(Path(wish.model))
    try:
        found = Detector.of(schema, weights)
    except WrongShape as error:
        raise ConfigError(f"{wish.model}: no model that detects: {error.message}", field="model") from None
    if wish.threshold is not None:
        return Detector(found.mean, found.width, found.basis, wish.threshold, found.reading)
    if found.threshold >= NEVER:
        after = f" (run {about['edgehold_run']}, round {about['edgehold_round']})" if "edgehold_run" in about else ""
        raise ConfigError(
            f"{wish.model}{after} has no threshold yet: run a plan of more rounds than standardise_rounds + subspace_rounds, "
            "or give --threshold",
            field="model",
        )
    return found


def detect(
    wish: Wish, source: str, follow: bool, out: IO[str], counts: Counts, home: Path | None = None
) -> None:  # fmt: skip
    """Score what comes in until it ends, or until Ctrl-C or SIGTERM. source: path, "-" for standard input.

    One JSON object a line goes to `out`, which is flushed as soon as nothing more has arrived; `counts` is kept up to date.
    `ConfigError` names row and column of a record that cannot be read, unless they are skipped.
    """
    model = load(wish, home)
    counts.threshold = model.threshold
    bad = Bad(wish.skip_bad)
    began = time.monotonic()
    with opened(source) as descriptor, stopping():
        try:
            for block in blocks(wish, source, lines(descriptor, follow and source != "-"), bad, model):
                scores = model.scores(block.x)
                alarm = scores > model.threshold
                counts.records, counts.alarms = counts.records + len(scores), counts.alarms + int(alarm.sum())
                counts.bad, counts.threshold = bad.count, model.threshold
                _write(out, block, scores.tolist(), alarm.tolist(), model.threshold, wish.alarms_only)
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:
            nobody_reads()
        finally:
            counts.bad, counts.seconds = bad.count, time.monotonic() - began
    if bad.first:
        print(f"first bad row: {bad.first}", file=sys.stderr)


def blocks(wish: Wish, source: str, pieces: Iterator[bytes], bad: Bad, model: Scorer) -> Iterator[Block]:
    """Blocks of numbers from pieces of whole lines."""
    where = "standard input" if source == "-" else source
    first = next(pieces, b"")
    if not first:
        return
    form = wish.format or ("jsonl" if first.lstrip()[:1] == b"{" else "csv")
    reader: Reader
    width = model.count
    reader = JsonReader(wish.columns, where, bad) if form == "jsonl" else CsvReader(wish.columns, where, bad, wish.delimiter)
    for piece in chain((first,), pieces):
        block = reader.read(piece)
        if block.x.shape[1] != width:
            raise ConfigError(
                f"{where}: {block.x.shape[1]} columns; the model has {width}: name the {width} with --columns or --task",
                field="columns",
            )
        if isinstance(reader, CsvReader) and not wish.columns:
            model.check(tuple(reader.names), where)
        if len(block.rows):
            yield block


def _write(
    out: IO[str], block: Block, scores: list[float], alarm: list[bool], threshold: float, alarms_only: bool
) -> None:  # fmt: skip
    ends = {which: f', "threshold": {threshold:.6g}, "alarm": {json.dumps(which)}}}\n' for which in (False, True)}
    said = [
        f'{{"record": {row}, "score": {score:.6g}{ends[high]}'
        for row, score, high in zip(block.rows, scores, alarm, strict=True)
        if high or not alarms_only
    ]
    if said:
        out.write("".join(said))
        out.flush()
