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

import numpy as np

from benchmarks import attacks, byzantine, compare_rounds, engine, masked_rounds, peers, rules
from benchmarks.beside import Asked, apart, asked, one_line
from benchmarks.frame import Options, Row, data_set, load_average, no_data
from edgehold.core.errors import FlError

NAME = "compare"
SUMMARY = "Beside Flower, ByzFL and breaching: rounds, start, memory, rules, attacks, masks, simulation"

SIMULATION_S = 300.0


def rows(options: Options) -> Iterator[Row]:
    """Part by part; a part in which we fail leaves a row and does not stop the others."""
    wanted = {name: part for name, part in PARTS.items() if any(options.wants_any(work) for work in (name, *part.works))}
    if "inversion" in wanted and data_set("cifar10") is None:
        options.say(f"inversion will fail: {no_data('cifar10')}")  # said now, not after a quarter of an hour
    for name, part in wanted.items():
        options.say(f"{name} ...")
        # A part named as such is wanted whole; otherwise its rows are picked by name.
        inside = replace(options, only="") if options.wants(name) else options
        try:
            yield from part.rows(inside)
        except (FlError, OSError, RuntimeError, AssertionError) as error:
            options.say(f"{name} failed: {error}")
            yield Row(f"{name}: failed", float("nan"), "s", load=load_average(), note=one_line(f"ours: {error}"))


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
            yield _beside(work, found, load, note, theirs)


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
    theirs = asked(partial(masked_rounds.theirs, options, clients, values, compare_rounds.PEER_ROUNDS, "masked"), options)
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
    "rounds": Part(compare_rounds.rows, compare_rounds.WORKS),
    "rules": Part(_rules, tuple(f"{rule}, n = {n}, f = {f}" for rule, _ in RULES for n, f in SHAPES)),
    "attacks": Part(_attacks, tuple(f"{attack} on {byzantine.RULE}" for attack in byzantine.PEERS)),
    "masks": Part(_masks, ("masked round",)),
    "simulation": Part(_simulation, MODES),
    "inversion": Part(_inversion, ("breaching",)),
}
