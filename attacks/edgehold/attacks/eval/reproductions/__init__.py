"""Scaled reproductions of methods, one module each. A new method adds its module here and one line to `REPRODUCTIONS`.

A module has

    NAME, SUMMARY: str                                   what `fl-eval reproduce NAME` runs, and one line for the list
    def cells(options: Options) -> list[Cell]            every run the report needs, as JSON that determines it
    def play(cell: Cell, data: Path | None) -> dict      one run, in a process of its own: numbers by name
    def judge(options: Options, played: list[Played]) -> Report

Cells are played on all cores, kept, and found again; `judge` sees them all. An attack must win with the defence off
before its defeat counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError

if TYPE_CHECKING:
    from edgehold.attacks.eval.bars import Report
    from edgehold.attacks.eval.cells import Cell, Played

REPRODUCTIONS = {
    "aimed_liars": "edgehold.attacks.eval.reproductions.aimed_liars",
    "bristle": "edgehold.attacks.eval.reproductions.bristle",
    "byzantine": "edgehold.attacks.eval.reproductions.byzantine",
    "consensus_liars": "edgehold.attacks.eval.reproductions.consensus_liars",
    "dp_ef_sgd": "edgehold.attacks.eval.reproductions.dp_ef_sgd",
    "dp_ef_sgd_fashion": "edgehold.attacks.eval.reproductions.dp_ef_sgd_fashion",
    "fedavg": "edgehold.attacks.eval.reproductions.fedavg",
    "fedpca": "edgehold.attacks.eval.reproductions.fedpca",
    "floral": "edgehold.attacks.eval.reproductions.floral",
    "frl": "edgehold.attacks.eval.reproductions.frl",
    "frl_cifar10": "edgehold.attacks.eval.reproductions.frl_cifar10",
    "frl_daemons": "edgehold.attacks.eval.reproductions.frl_daemons",
    "frl_fashion": "edgehold.attacks.eval.reproductions.frl_fashion",
    "hidenseek": "edgehold.attacks.eval.reproductions.hidenseek",
    "hyperfl": "edgehold.attacks.eval.reproductions.hyperfl",
    "masked_votes": "edgehold.attacks.eval.reproductions.masked_votes",
    "noise_robust_admm": "edgehold.attacks.eval.reproductions.noise_robust_admm",
    "robust_rules": "edgehold.attacks.eval.reproductions.robust_rules",
}


@dataclass(frozen=True, slots=True)
class Options:
    """seeds: runs per bar; quick: small data and few rounds, for continuous integration; data: folder with a folder per
    data set, None where there is none.
    """

    seeds: int
    quick: bool = False
    data: Path | None = None

    def has(self, dataset: str) -> bool:
        """Whether the data set is there ("digits" always is)."""
        return dataset == "digits" or (self.data is not None and (self.data / dataset).is_dir())


class Reproduction(Protocol):
    """A module of this folder."""

    NAME: str
    SUMMARY: str

    def cells(self, options: Options) -> "list[Cell]":
        """Every run the report needs."""

    def play(self, cell: "Cell", data: Path | None) -> dict[str, float]:
        """One run."""

    def judge(self, options: Options, played: "Sequence[Played]") -> "Report":
        """Bars and tables."""


def find(name: str) -> Reproduction:
    """The reproduction of that name; `ConfigError` with the nearest one."""
    if name not in REPRODUCTIONS:
        raise ConfigError(f"no reproduction {name!r}{suggest(name, list(REPRODUCTIONS))}", field="name")
    module: Any = import_module(REPRODUCTIONS[name])
    return cast(Reproduction, module)
