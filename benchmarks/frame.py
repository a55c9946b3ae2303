"""What every benchmark has in common: rows with targets, the machine, tables, JSON, and the tables in docs/benchmarks.md.

A benchmark is a module of this folder, named in `BENCHMARKS`, with

    NAME: str                                      what `./scripts/bench NAME` runs
    SUMMARY: str                                   one line for `--list`
    def rows(options: Options) -> Iterator[Row]    measures; yields each row as soon as it is known
"""

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, cast

from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"

BENCHMARKS = (
    "rounds", "connections", "engine", "thousands", "rules", "votes", "private", "edge", "byzantine", "masks", "attacks",
    "export", "spool", "compare",
)  # fmt: skip
"""Names of the modules of this folder that are benchmarks."""


def data_set(name: str) -> Path | None:
    """Folder of a real data set below EDGEHOLD_DATA (default: shared/data beside this repository); None: it is missing."""
    found = Path(os.environ.get("EDGEHOLD_DATA") or ROOT.parent / "shared" / "data") / name
    return found if found.is_dir() else None


def no_data(*names: str) -> str:
    """What to say where `data_set` has nothing."""
    return f"EDGEHOLD_DATA names no folder that has {' and '.join(names)}; docs/data.md says where a person gets it"


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number.

    target: what it must not exceed, in the same unit; None for a number that is only told. holds: whether it does not.
    limit: what the machine itself needs for the same bytes, measured in the same run, same unit; None where that means
    nothing. load: the one-minute load average before the row was measured. note: what exactly was measured.
    at_least: the target must be reached instead. against: another product that did the same work; peer: its value, None where
    there is none and the note says why. A value that is not a number (`nan`) says that the measurement failed, as noted.
    """

    work: str
    value: float
    unit: str
    target: float | None = None
    limit: float | None = None
    load: float = 0.0
    note: str = ""
    at_least: bool = False
    against: str = ""
    peer: float | None = None

    @property
    def holds(self) -> bool:
        """Whether there is a value, and the target is met (no target: always)."""
        if math.isnan(self.value):
            return False
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what a peer did only where one was asked."""
        known = not math.isnan(self.value)
        ratio = round(self.value / self.limit, 2) if self.limit and known else None
        found = asdict(self) | {"value": self.value if known else None, "holds": self.holds, "ratio": ratio}
        if not self.against:
            return {key: value for key, value in found.items() if key not in ("against", "peer")}
        return found | {"times": self.peer / self.value if self.peer is not None and self.value else None}


@dataclass(frozen=True, slots=True)
class Options:
    """rounds: how many to play where a row does not need its own number; quick: tiny rows that say nothing about speed;
    only: part of the names of the rows to measure; folder: where federations live while they run; peer: measure another
    product beside this one, where a benchmark can. shape: clients and values each, where a benchmark takes them.
    """

    rounds: int = 6
    quick: bool = False
    only: str = ""
    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    peer: bool = False
    shape: tuple[int, int] | None = None
    say: Callable[[str], None] = lambda text: print(f"  {text}", file=sys.stderr, flush=True)

    def wants(self, work: str) -> bool:
        """Whether a row of this name is to be measured."""
        return self.only.lower() in work.lower()

    def wants_any(self, beginning: str) -> bool:
        """Whether any of the rows whose names begin like this is to be measured."""
        return self.wants(beginning) or self.only.lower().startswith(beginning.lower())


class Benchmark(Protocol):
    """A module of this folder."""

    NAME: str
    SUMMARY: str

    def rows(self, options: Options) -> Iterator[Row]:
        """Measure."""


def find(name: str) -> Benchmark:
    """The benchmark of that name; `ConfigError` with the nearest one."""
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}{suggest(name, list(BENCHMARKS))}; --list shows all", field="name")
    return cast(Benchmark, import_module(f"benchmarks.{name}"))


def measured_alone(command: list[str]) -> dict[str, float]:
    """What a measurement in a process of its own, with one thread for arithmetic, printed last: numbers as JSON."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | one)
    if done.returncode:
        raise ConfigError(f"measuring failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def load_average() -> float:
    """Runnable processes over the last minute."""
    return round(os.getloadavg()[0], 2)


def machine() -> dict[str, str]:
    """Where this was measured."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        **{package: version(package) for package in ("grpcio", "protobuf", "numpy", "cryptography")},
    }


def commit() -> str:
    """The commit measured, with "+" when the tree differs from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        code = ("server", "client", "core", "proto", "defenses", "benchmarks/*.py", "attacks/edgehold/attacks/inversion")
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *code], check=False).returncode
        return head + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def result(rows: Sequence[Row], where: dict[str, str], at: str) -> dict[str, Any]:
    """What `--json` writes."""
    return {"rows": [row.as_dict() for row in rows], "machine": where, "commit": at}


def number(value: float | None) -> str:
    """Three significant digits, never in exponents; a dash for none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


HEAD = ("work", "value", "target", "holds", "machine limit", "load", "measured")
BESIDE = ("work", "ours", "peer", "peer / ours", "machine limit", "load", "measured")
"""Columns of a table whose rows stand beside another product's."""


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of a result, as the columns of `HEAD`."""
    unit = row["unit"]
    limit = f"{number(row['limit'])} {unit} (x {number(row['ratio'])})" if row["limit"] else ""
    holds = "" if row["target"] is None else "yes" if row["holds"] else "NO"
    least = ">= " if row.get("at_least") else ""
    target = "" if row["target"] is None else f"{least}{number(row['target'])} {unit}"
    return (row["work"], f"{number(row['value'])} {unit}", target, holds, limit, f"{row['load']:g}", row["note"])


def beside(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of a result, as the columns of `BESIDE`."""
    work, ours, _, _, limit, load, note = cells(row)
    if not row.get("against"):
        return (work, ours, "", "", limit, load, note)
    times = "" if row["times"] is None else f"x {number(row['times'])}"
    peer = "-" if row["peer"] is None else f"{number(row['peer'])} {row['unit']}"
    return (work, ours, f"{peer} ({row['against']})", times, limit, load, note)


def _shape(rows: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], Callable[[dict[str, Any]], tuple[str, ...]]]:
    return (BESIDE, beside) if any(row.get("against") for row in rows) else (HEAD, cells)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For terminals: aligned columns."""
    head, line_of = _shape(rows)
    return aligned([head, *(line_of(row) for row in rows)])


def aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Lines of equally many cells, one below the other."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown(found: dict[str, Any]) -> str:
    """A result as the text between its markers in docs/benchmarks.md."""
    where = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    head, line_of = _shape(found["rows"])
    lines = [f"Commit {found['commit']}; {where}.", "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    lines += [f"| {' | '.join(line_of(row))} |" for row in found["rows"]]
    return "\n".join(lines)


ALLOWED = 0.10
"""How much worse than before a promised number may be measured, as a share of it."""


def against(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What became of the numbers that an earlier result promised: its rows with a target, each beside the new row of that name.

    worse: by how much of the old value, negative when better; None when the new result lacks the row or its value, or has it in
    another unit. holds: at most `ALLOWED`, and there.
    """
    there, found = {row["work"]: row for row in new}, []
    for row in old:
        if row["target"] is None:
            continue
        other = there.get(row["work"])
        worse = None
        if other is not None and other["value"] is not None and other["unit"] == row["unit"] and row["value"]:
            change = (other["value"] - row["value"]) / abs(row["value"])
            worse = -change if row.get("at_least") else change
        now = None if other is None else other["value"]
        holds = worse is not None and worse <= ALLOWED
        found.append(
            {"work": row["work"], "unit": row["unit"], "old": row["value"], "new": now, "worse": worse, "holds": holds}
        )
    return found


def told(compared: Sequence[dict[str, Any]]) -> str:
    """A comparison by `against` for terminals, worst first, and a sentence that sums it up."""
    rows = sorted(compared, key=lambda row: -math.inf if row["worse"] is None else -row["worse"])
    lines = [("promised before", "then", "now", "worse by", f"within {100 * ALLOWED:.0f} %")]
    for row in rows:
        worse = "not measured" if row["worse"] is None else f"{100 * row['worse']:+.1f} %"
        values = [f"{number(row[key])} {row['unit']}" for key in ("old", "new")]
        lines.append((row["work"], *values, worse, "yes" if row["holds"] else "NO"))
    bad = sum(not row["holds"] for row in compared)
    end = f"{bad} of {len(compared)} promised numbers are worse by more than {100 * ALLOWED:.0f} % or were not measured"
    return f"{aligned(lines)}\n{end}"


def save(name: str, found: dict[str, Any]) -> None:
    """Keep a result beside the benchmarks and put its table into docs/benchmarks.md, or the page the benchmark names."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page: Path = getattr(find(name), "DOCS", DOCS)
    page.write_text(replaced(page.read_text(encoding="utf-8"), name, markdown(found)), encoding="utf-8")


def replaced(text: str, name: str, inside: str) -> str:
    """`text` with what stands between the markers of one benchmark replaced; `ConfigError` when they are missing."""
    begin, end = f"<!-- bench {name} -->\n", f"<!-- /bench {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ConfigError(f"docs/benchmarks.md has no place for {name!r}: put {begin.strip()} and {end.strip()} there")
    return f"{before}{begin}{inside}\n{end}{after}"
