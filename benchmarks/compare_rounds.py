"""Rounds over the network beside Flower's: real processes on both sides, start-up, idle memory; plain sockets as the limit."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import fleet, limit, masked_rounds, peers
from benchmarks import rounds as all_rounds
from benchmarks.beside import Asked, asked
from benchmarks.frame import Options, Row, load_average, number
from edgehold.client.data.synthetic import make_task
from edgehold.core.errors import ConfigError

MIB = 1 << 20
PEER_ROUNDS = 3
"""Rounds that Flower plays; the first is left out."""


@dataclass(frozen=True, slots=True)
class Size:
    """A federation: clients, float32 values of the model, rounds of ours (Flower plays `PEER_ROUNDS`)."""

    clients: int
    values: int
    rounds: int
    theirs: bool = True

    @property
    def work(self) -> str:
        """The row's name."""
        size = 4 * self.values
        return f"round, {self.clients} x {f'{size / 1e6:g} MB' if size >= 1e6 else f'{size / 1e3:g} KB'}"


SIZES = (Size(10, 10_000, 30), Size(10, 11_250_000, 6), Size(100, 10_000, 20, theirs=False))
TINY = (Size(2, 1000, 3),)


def rows(options: Options) -> Iterator[Row]:
    idle: Asked | None = None
    for size in TINY if options.quick else SIZES:
        first = idle is None
        if not options.wants(size.work) and not (first and any(options.wants(work) for work in STARTS)):
            continue
        load = load_average()
        ours = _our_rounds(size, options)
        if size.theirs:
            how = (size.clients, size.values, PEER_ROUNDS)
            theirs = asked(partial(masked_rounds.theirs, options, *how, "plain"), options)
            idle = theirs if first else idle
        else:
            theirs = Asked(None, too_many(size.clients, idle))
        physical = None if options.quick else limit.seconds(size.clients, 4 * size.values)
        moved = 8 * size.clients * size.values / 1e6
        note = f"median of {size.rounds - 1} rounds; {number(moved / ours.seconds)} MB/s both ways together"
        other = theirs.value("seconds")
        if other is not None:
            note += f"; peer: of {PEER_ROUNDS - 1} rounds, {number(moved / other)} MB/s; both means checked"
        yield Row(size.work, ours.seconds, "s", None, physical, load, theirs.note(note), False, peers.FLOWER.title, other)
        what = size.work.removeprefix("round, ")
        note = theirs.note("processor seconds per round of server and all clients")
        other = theirs.value("processor")
        yield Row(f"processor, {what}", ours.processor, "s", None, None, load, note, False, peers.FLOWER.title, other)
    if idle is not None:
        yield from _starts(options, idle)


@dataclass(frozen=True, slots=True)
class _Ours:
    seconds: float
    processor: float


def _our_rounds(size: Size, options: Options) -> _Ours:
    """A federation of real daemons whose model is checked at the end: each device's constant, averaged, once a round."""
    names = [f"device-{number:04}" for number in range(size.clients)]
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder,
        fleet.many_files(fleet.FILES_PER_CLIENT * size.clients),
        fleet.federation(Path(folder) / "bed", size.values) as bed,
    ):
        bed.start_server()
        fleet.enrol(bed, names, size.values)
        fleet.start(bed, names, size.clients)
        bed.wait_connected(size.clients, 180.0)
        before = masked_rounds.processor(bed)
        # Scored once, after the last round, so that the rounds that are timed carry nothing of it.
        played = fleet.play(bed, "bench", size.rounds, size.clients, size.rounds)
        used = (masked_rounds.processor(bed) - before) / size.rounds
    wanted = expected_loss(size)
    found = played.facts.get("loss", float("nan"))
    if not abs(found - wanted) <= 1e-4 * wanted:
        raise ConfigError(f"after {size.rounds} rounds the loss is {found}; the mean of the updates gives {wanted}")
    return _Ours(median(played.wall[:-1] or played.wall), used)


def expected_loss(size: Size) -> float:
    """What the synthetic task scores after every device's constant was averaged in each round of a run with seed 1."""
    moved = size.rounds * sum((number + 1) / 1024 for number in range(size.clients)) / size.clients
    task = make_task(size.values)
    return task.evaluate(task.initial(1) + np.float32(moved))["loss"]


def too_many(clients: int, idle: Asked | None) -> str:
    """Why Flower does not play so many clients here."""
    told = f"{peers.FLOWER.title} not measured with {clients} nodes"
    each = None if idle is None else idle.value("idle_client")
    if each is None:
        return told
    return f"{told}: idle they hold {clients * each / (1 << 30):.1f} GiB, and as many processes more while they train"


STARTS = ("server ready", "client connected", "idle server", "idle client")


def _starts(options: Options, theirs: Asked) -> Iterator[Row]:
    """Our own rows of start-up and idle memory, beside what Flower's first federation told of itself."""
    names = dict(
        zip(("fl-server ready", "fl-client connected", "idle server", "idle client without torch"), STARTS, strict=True)
    )
    keys = dict(zip(STARTS, ("ready", "connected", "idle_server", "idle_client"), strict=True))
    for row in all_rounds.rows(replace(options, only="fl-server ready")):
        work = names[row.work]
        scale = 1 / MIB if row.unit == "MiB" else 1.0
        how = "ours resident, peer's shared pages divided" if row.unit == "MiB" else "after process start"
        other = theirs.value(keys[work], scale)
        yield replace(row, work=work, target=None, note=theirs.note(how), against=peers.FLOWER.title, peer=other)


WORKS = (*(size.work for size in (*SIZES, *TINY)), *STARTS)
"""Names of the rows."""
