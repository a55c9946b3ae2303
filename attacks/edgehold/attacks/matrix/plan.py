"""The file of a matrix: which defences meet which attacks, on which data, by how many liars, and what those know."""

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from edgehold.attacks.byzantine.knowledge import Knowledge, Reach
from edgehold.attacks.eval.ready import Ready
from edgehold.attacks.privacy.membership.study import Study
from edgehold.core.config import Config, convert, parse_toml, suggest
from edgehold.core.errors import ConfigError

Share = Annotated[float, msgspec.Meta(gt=0, lt=0.5)]
Names = tuple[str, ...]


class Data(Config, frozen=True, kw_only=True):
    """A federation before anybody lies.

    dataset: its name; all but "digits" lie in a folder of that name in the data folder. optional: left out, with a note in the
    report, where that folder is missing. honest: devices that hold the records; liars come on top. limit: records of each;
    test_limit: of the server. model, net: its name and options; a perceptron with 32 hidden units. training: of methods that
    send changes of the model.
    classes, source, target: how many there are; the class that targeted flips take and the one that they and triggers make.
    """

    dataset: str
    optional: bool = False
    honest: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 12
    rounds: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10
    partition: str = "dirichlet"
    alpha: float = 1.0
    min_records: int = 8
    limit: int | None = None
    test_limit: int | None = None
    scale: str = ""
    model: str = "mlp"
    net: dict[str, Any] = msgspec.field(default_factory=dict)
    training: dict[str, Any] = msgspec.field(default_factory=dict)
    classes: Annotated[int, msgspec.Meta(ge=2)] = 10
    source: int = 7
    target: int = 1


class Defence(Config, frozen=True, kw_only=True):
    """A method, or FedAvg with a rule. rule, options: as in a plan (`rule`, `rule_options`); settings: the rest of its table.

    net, scale, rounds: instead of the data's. data: where it is played; empty: everywhere.
    """

    method: str = "fedavg"
    rule: str = ""
    options: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    net: dict[str, Any] = msgspec.field(default_factory=dict)
    scale: str = ""
    rounds: int | None = None
    data: Names = ()


class Assault(Config, frozen=True, kw_only=True):
    """An attack. name: in the registry; empty: that of the table. options: what it takes.

    bar: what it must cost where nobody defends before any defence is credited with its defeat; None: see `grid.BARS`.
    told: what the liars take the server's rule for; empty: what it is.
    """

    name: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    bar: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    told: str = ""


class Sweep(Config, frozen=True, kw_only=True):
    """Further shares of liars for part of the matrix: the curves. Empty lists: all."""

    shares: Annotated[tuple[Share, ...], msgspec.Meta(min_length=1)]
    defences: Names = ()
    attacks: Names = ()
    data: Names = ()


class Audits(Study, frozen=True, kw_only=True):
    """Audits of privacy beside the attacks on accuracy: a study of membership, and more about its private subjects.

    optional: left out, with a note in the report, where the data set's folder is missing. membership: subjects that are
    attacked with shadow models; empty: all. epsilons: at which every method of a private subject is trained, for accuracy
    against epsilon. one_run: epsilons at which the one-run audit is held against the claim, with so many canaries.
    """

    optional: bool = False
    membership: Names = ()
    epsilons: tuple[Annotated[float, msgspec.Meta(gt=0)], ...] = ()
    one_run: tuple[Annotated[float, msgspec.Meta(gt=0)], ...] = ()
    canaries: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 2000

    def must_be_sound(self) -> None:
        """`ConfigError` for what cannot be played."""
        from edgehold.attacks.privacy.membership.train import checked
        from edgehold.attacks.privacy.run import Wish

        super().must_be_sound()
        checked(self)
        for method, subject in self.private.items():
            for epsilon in self.one_run:
                Wish(method, epsilon, self.subject[subject].delta, self.canaries, 1).must_be_sound()
        for name in self.membership:
            if name not in self.subject:
                raise ConfigError(f"audits.membership: {name!r}{suggest(name, list(self.subject))}", field="audits.membership")
        if (self.epsilons or self.one_run) and not self.private:
            raise ConfigError(
                "audits.epsilons and audits.one_run are about subjects with an epsilon; there is none", field="audits.subject"
            )

    @property
    def attacked(self) -> Names:
        """Subjects that are attacked with shadow models."""
        return self.membership or tuple(self.subject)

    @property
    def private(self) -> Mapping[str, str]:
        """Method -> its first subject that has an epsilon."""
        found: dict[str, str] = {}
        for name, one in self.subject.items():
            if one.epsilon is not None:
                found.setdefault(one.method, name)
        return found


class Head(Config, frozen=True, kw_only=True):
    """The [matrix] table. shares: of liars among all clients of a round. knowledge: what liars are granted, "K0" to "K2+A"."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    seeds: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    shares: Annotated[tuple[Share, ...], msgspec.Meta(min_length=1)] = (0.2,)
    knowledge: str = "K0"
    data: Annotated[Names, msgspec.Meta(min_length=1)]
    defences: Annotated[Names, msgspec.Meta(min_length=1)]
    attacks: Annotated[Names, msgspec.Meta(min_length=1)]


class Matrix(Config, frozen=True, kw_only=True):
    """The whole file."""

    matrix: Head
    data: dict[str, Data]
    defence: dict[str, Defence] = msgspec.field(default_factory=dict)
    attack: dict[str, Assault] = msgspec.field(default_factory=dict)
    sweep: Sweep | None = None
    audits: Audits | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all settings, in hexadecimal; comments and order of keys do not count."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    @property
    def granted(self) -> Knowledge:
        """What the liars know; `ConfigError` for another word."""
        return granted(self.matrix.knowledge)


READY = Ready("edgehold.attacks.matrix", "matrix")


def granted(word: str) -> Knowledge:
    """Knowledge by its short name, "K0" to "K2+A"; `ConfigError` for another word."""
    found = re.fullmatch(r"K([0-2])(\+A)?", word)
    if not found:
        words = ["K0", "K1", "K2", "K0+A", "K1+A", "K2+A"]
        raise ConfigError(f"matrix.knowledge = {word!r}{suggest(word, words)}", field="matrix.knowledge")
    return Knowledge(Reach(int(found[1])), bool(found[2]))


def parse(text: str, source: str = "matrix") -> Matrix:
    """The matrix; `ConfigError` names the key to mend."""
    return convert(parse_toml(text, source), Matrix, source)
