"""The file of a study: which records, how many shadow models, and the methods whose models are attacked."""

import hashlib
from typing import Annotated, Any, Literal

import msgspec

from edgehold.attacks.eval.ready import Ready
from edgehold.core.config import Config, convert, parse_toml
from edgehold.core.errors import ConfigError

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


class Subject(Config, frozen=True, kw_only=True):
    """A method whose model is attacked. settings: of its table in a plan; rounds: instead of the study's.

    epsilon: what every record is to be promised over the whole run, at `delta`: the noise is chosen to it. For methods that add
    noise on the device; others take what stands in settings.
    """

    method: str = "fedavg"
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    epsilon: Annotated[float, msgspec.Meta(gt=0)] | None = None
    delta: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-5
    rounds: Count | None = None


class Study(Config, frozen=True, kw_only=True):
    """Half of `pool` records of the training part are dealt to `devices`, by a draw of each model's own; which half is guessed.

    dataset: its name; all but "digits" lie in a folder of that name. shadows: models of the attacker's own; an even number, as
    each second one is trained on what the first was not. seeds: targets, each with pool, split and shadow models of its own.
    view: "final": the last global model; "trajectory": the mean of phi over the global models after every round.
    test_limit: the server's records, which are also the population of `ranked`.
    """

    dataset: str
    pool: Annotated[int, msgspec.Meta(ge=20, le=1_000_000)]
    devices: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    rounds: Count = 10
    model: str = "mlp"
    net: dict[str, Any] = msgspec.field(default_factory=lambda: {"hidden": [64]})
    scale: str = ""
    test_limit: int | None = None
    shadows: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 16
    view: Literal["final", "trajectory"] = "final"
    seeds: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    subject: dict[str, Subject]

    def must_be_sound(self) -> None:
        """`ConfigError` for what cannot be played."""
        from edgehold.attacks.privacy.run import TRAININGS  # loads what `fl-eval --help` has no use for
        from edgehold.defenses import registry

        if self.pool % 2 or self.shadows % 2 or self.shadows == 2:
            raise ConfigError(
                f"pool = {self.pool}, shadows = {self.shadows}; both are even, and shadows 0 or at least 4: models come in "
                "pairs that share the pool",
                field="shadows",
            )
        if self.pool // 2 < self.devices:
            raise ConfigError(f"{self.pool // 2} members for {self.devices} devices; at least one each", field="pool")
        if not self.subject:
            raise ConfigError("no [subject.NAME]: name a method to attack", field="subject")
        for name, one in self.subject.items():
            registry.method(one.method)
            if one.epsilon is not None and one.method not in TRAININGS:
                raise ConfigError(
                    f"subject.{name}: noise can be chosen to an epsilon for {', '.join(TRAININGS)}; {one.method} takes what "
                    "stands in its settings",
                    field=f"subject.{name}.epsilon",
                )


class Named(Study, frozen=True, kw_only=True):
    """The whole file of `fl-eval membership`."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]

    @property
    def digest(self) -> str:
        """SHA-256 of all settings, in hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


READY = Ready("edgehold.attacks.privacy.membership", "study")


def parse(text: str, source: str = "study") -> Named:
    """The study; `ConfigError` names the key to mend."""
    found = convert(parse_toml(text, source), Named, source)
    found.must_be_sound()
    return found
