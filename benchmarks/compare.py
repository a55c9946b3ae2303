"""This product beside Flower and ByzFL on one machine, in one go, and beside breaching where that can be installed.

Both sides do the same work, are checked to have the same result, and are measured one right after the other. Every row says
what the machine itself needs where that means something: plain TLS sockets on loopback for rounds, one reading of the updates
for rules. A peer that cannot be installed, or fails, leaves a row that says so, and the rest goes on.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import attacks, byzantine, engine, fleet, limit, masked_rounds, peers, rounds, rules
from benchmarks.frame import Options, Row, load_average, number
from edgehold.client.data.synthetic import make_task
from edgehold.core.errors import ConfigError, FlError
from edgehold.core.vectors import Array

NAME = "compare"
SUMMARY = "Beside Flower, ByzFL and breaching: rounds, start, memory, rules, attacks, masks, simulation"

MIB = 1 << 20
NAN = float("nan")
PEER_ROUNDS = 3
"""Rounds that Flower plays; the first is left out."""
SIMULATION_S = 300.0
APART = 0.01
"""Relative distance of two results above which they do not count as the same."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a peer answered, or why it did not. found: None then."""

    found: dict[str, float] | None
    why: str = ""

    def value(self, key: str, scale: float = 1.0) -> float | None:
        """One number of the answer, times `scale`."""
        return None if self.found is None else scale * self.found[key]

    def note(self, text: str) -> str:
        """A note with the reason at its end."""
        return f"{text}; {self.why}" if self.why else text


def asked(call: Callable[[], dict[str, float]], options: Options) -> Asked:
    """What a peer answers; its failure as the reason."""
    try:
        return Asked(call())
    except FlError as error:
        options.say(error.message)
        return Asked(None, one_line(error.message))


def one_line(text: str) -> str:
    """For a cell of a table."""
    return " ".join(text.replace("|", "/").split())[:240]


def apart(ours: Array, theirs: Array, start: Array | None = None) -> float:
    """Relative Euclidean distance of two results; `ConfigError` above `APART`. start: what both results moved away from."""
    if ours.shape != theirs.shape:
        raise ConfigError(f"results of shapes {ours.shape} and {theirs.shape} are not of the same work")
    moved = ours if start is None else ours - start
    distance = float(np.linalg.norm(ours - theirs) / np.linalg.norm(moved))
    if not distance <= APART:  # not a number is no agreement
        raise ConfigError(f"not the same work: the results are {distance:.2g} apart, relative to ours; allowed: {APART:g}")
    return distance


def rows(options: Options) -> Iterator[Row]:
    """Part by part; a part in which we fail leaves a row and does not stop the others."""
    for name, part in PARTS.items():
        if not any(options.wants(work) for work in (name, *part.works)):
            continue
        options.say(f"{name} ...")
        # A part named as such is wanted whole; otherwise its rows are picked by name.
        inside = replace(options, only="") if options.wants(name) else options
        try:
            yield from part.rows(inside)
        except (FlError, OSError, RuntimeError, AssertionError) as error:
            options.say(f"{name} failed: {error}")
            yield Row(f"{name}: failed", NAN, "s", load=load_average(), note=one_line(f"ours: {error}"))


# Rounds over the network


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


def _rounds(options: Options) -> Iterator[Row]:
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
            theirs = Asked(None, _too_many(size.clients, idle))
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
    found = played.facts.get("loss", NAN)
    if not abs(found - wanted) <= 1e-4 * wanted:
        raise ConfigError(f"after {size.rounds} rounds the loss is {found}; the mean of the updates gives {wanted}")
    return _Ours(median(played.wall[:-1] or played.wall), used)


def expected_loss(size: Size) -> float:
    """What the synthetic task scores after every device's constant was averaged in each round of a run with seed 1."""
    moved = size.rounds * sum((number + 1) / 1024 for number in range(size.clients)) / size.clients
    task = make_task(size.values)
    return task.evaluate(task.initial(1) + np.float32(moved))["loss"]


def _too_many(clients: int, idle: Asked | None) -> str:
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
    for row in rounds.rows(replace(options, only="fl-server ready")):
        work = names[row.work]
        scale = 1 / MIB if row.unit == "MiB" else 1.0
        how = "ours resident, peer's shared pages divided" if row.unit == "MiB" else "after process start"
        other = theirs.value(keys[work], scale)
        yield replace(row, work=work, target=None, note=theirs.note(how), against=peers.FLOWER.title, peer=other)


# Robust rules and attacks on them

RULES = (
    ("trimmed_mean", "TrMean"), ("median", "Median"), ("krum", "Krum"), ("multi_krum", "MultiKrum"),
    ("geometric_median", "GeometricMedian"), ("nnm+trimmed_mean", "NNM+TrMean"),
)  # fmt: skip
SHAPES = ((20, 4), (100, 20))


def _rules(options: Options) -> Iterator[Row]:
    values = 4096 if options.quick else rules.VALUES
    for rule, peer in RULES:
        for n, f in SHAPES:
            work = f"{rule}, n = {n}, f = {f}"
            if not options.wants(work):
                continue
            load = load_average()
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                mine, other = Path(folder) / "ours.npy", Path(folder) / "theirs.npy"
                case = rules.Case(rule, n, f, peer)
                found = rules.ours(case, values, str(mine))
                theirs = asked(partial(_same_rule, case, values, options, mine, other), options)
            note = f"processor, {values:,} values; limit: one reading; memory {found['memory']:.0f} MiB"
            if theirs.found is not None:
                note += f", peer {theirs.found['memory']:.0f} MiB; results {theirs.found['apart']:.1g} apart"
            seconds = theirs.value("seconds")
            yield Row(
                work, found["seconds"], "s", None, found["pass"], load, theirs.note(note), False, peers.BYZFL.title, seconds
            )


def _same_rule(case: rules.Case, values: int, options: Options, mine: Path, other: Path) -> dict[str, float]:
    found = rules.theirs(case, values, options, str(other))
    return found | {"apart": apart(np.load(mine), np.load(other))}


def _beside(work: str, found: dict[str, float], load: float, note: str, theirs: Asked) -> Row:
    seconds = theirs.value("seconds")
    return Row(work, found["seconds"], "s", None, found["pass"], load, theirs.note(note), False, peers.BYZFL.title, seconds)


def _attacks(options: Options) -> Iterator[Row]:
    values = 4096 if options.quick else byzantine.VALUES
    for attack, kind in byzantine.PEERS.items():
        work = f"{attack} on {byzantine.RULE}"
        if not options.wants(work):
            continue
        load = load_average()
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found = byzantine.ours(attack, byzantine.RULE, values, folder)
            theirs = asked(partial(byzantine.theirs, kind, Path(folder), options), options)
        note = f"processor, n = {byzantine.HONEST + byzantine.LIARS}, f = {byzantine.LIARS}, {values:,} values"
        note += f"; harm through the same rule {found['harm']:.5g}"
        if theirs.found is not None:
            note += f", peer's lie {theirs.found['harm']:.5g}"
        yield _beside(work, found, load, note, theirs)


# Masked sums


def _masks(options: Options) -> Iterator[Row]:
    values, clients = (1000, 3) if options.quick else (masked_rounds.VALUES, masked_rounds.CLIENTS)
    load = load_average()
    plain, masked = masked_rounds.ours(options, values, 3 if options.quick else options.rounds)
    theirs = asked(partial(masked_rounds.theirs, options, clients, values, PEER_ROUNDS, "masked"), options)
    note = f"{masked_rounds.CLIENTS} devices, {values:,} values; plain {plain['seconds']:.3g} s"
    if theirs.found is not None and clients != masked_rounds.CLIENTS:
        note += f"; peer with {clients} devices"
    for work, key in (("masked round", "seconds"), ("masked round, processor", "processor")):
        other = theirs.value(key)
        yield Row(work, masked[key], "s", None, None, load, theirs.note(note), False, f"{peers.FLOWER.title} SecAgg+", other)


# Simulation

MODES = ("simulation, one process", "simulation, two processes")


def _simulation(options: Options) -> Iterator[Row]:
    clients, turns = (10, 3) if options.quick else (100, 20)
    for work, workers in zip(MODES, (1, 2), strict=True):
        if not options.wants(work):
            continue
        load = load_average()
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            source, out = Path(folder) / "ours.npz", Path(folder) / "theirs.npy"
            case = {"clients": clients, "cohort": clients, "rounds": turns, "workers": workers, "batch_size": 1_000_000}
            ours = engine.play(case | {"out": str(source)})
            peer = peers.BYZFL if workers == 1 else peers.FLOWER_SIMULATION
            theirs = asked(partial(_same_play, peer, source, out, turns, options), options)
        size = f"{clients} clients, digits, perceptron 64-64-10, one step each on all own records; median of {turns - 1} rounds"
        if theirs.found is not None:
            size += f"; models {theirs.found['apart']:.1g} apart"
        for name, key, unit in ((work, "round", "ms"), (f"start, {work}", "start", "s")):
            yield Row(name, ours[key], unit, None, None, load, theirs.note(size), False, peer.title, theirs.value(key))


def _same_play(peer: peers.Peer, source: Path, out: Path, turns: int, options: Options) -> dict[str, float]:
    peers.environment(peer, options)  # so that making it is not counted as its start
    script, actors = ("byzfl_training_peer.py", []) if peer is peers.BYZFL else ("flower_simulation_peer.py", [2])
    found = peers.measured(peer, script, (source, out, turns, *actors, time.time()), options, SIMULATION_S)
    ours = np.load(source)
    return found | {"apart": apart(ours["last"], np.load(out), ours["first"])}


# Inversion


def _inversion(options: Options) -> Iterator[Row]:
    """The comparison with breaching is part of the benchmark of attacks; its rows are shown here as they are."""
    found = False
    for row in attacks.rows(replace(options, peer=True, only="breaching")):
        found = True
        yield row
    if not found:
        options.say("the benchmark of attacks has no row named breaching")


@dataclass(frozen=True, slots=True)
class Part:
    """rows: measures; works: names of its rows, so that `--only` can pick them."""

    rows: Callable[[Options], Iterator[Row]]
    works: tuple[str, ...] = ()


PARTS = {
    "rounds": Part(_rounds, (*(size.work for size in (*SIZES, *TINY)), *STARTS)),
    "rules": Part(_rules, tuple(f"{rule}, n = {n}, f = {f}" for rule, _ in RULES for n, f in SHAPES)),
    "attacks": Part(_attacks, tuple(f"{attack} on {byzantine.RULE}" for attack in byzantine.PEERS)),
    "masks": Part(_masks, ("masked round",)),
    "simulation": Part(_simulation, MODES),
    "inversion": Part(_inversion, ("breaching",)),
}
