"""Options of rules and pre-steps: `rule_options` of a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError

Value: TypeAlias = bool | int | float | str
Values: TypeAlias = Mapping[str, Value]

FIELD = "method.rule_options"


@dataclass(frozen=True, slots=True)
class Option:
    """One number (or, without bounds, one word). default: None where the plan must give it. whole: whether only integers."""

    name: str
    default: Value | None
    help: str
    least: float = 0.0
    most: float = 0.0
    whole: bool = False
    word: bool = False

    def admit(self, value: Value) -> Value:
        """The value, or `ConfigError` with what is allowed."""
        if self.word:
            if isinstance(value, str) and value:
                return value
            raise ConfigError(f"{FIELD}.{self.name} = {value!r}: expected {self.help}", field=f"{FIELD}.{self.name}")
        number = isinstance(value, int) if self.whole else isinstance(value, int | float)
        if isinstance(value, str | bool) or not number or not self.least <= value <= self.most:
            kind = "a whole number" if self.whole else "a number"
            raise ConfigError(
                f"{FIELD}.{self.name} = {value!r}: expected {kind} from {self.least:g} to {self.most:g}",
                field=f"{FIELD}.{self.name}",
            )
        return value if self.whole else float(value)


def admit(given: Values, known: Sequence[Option], name: str) -> dict[str, Value]:
    """Every option of a recipe called `name`, given or by default; `ConfigError` for unknown, missing and wrong ones."""
    names = [option.name for option in known]
    for key in given:
        if key not in names:
            hint = suggest(key, names) if names else f"; {name} has none"
            raise ConfigError(f"unknown key {FIELD}.{key} for rule {name!r}{hint}", field=f"{FIELD}.{key}")
    found = {}
    for option in known:
        value = given.get(option.name, option.default)
        if value is None:
            raise ConfigError(f"{FIELD}.{option.name} is missing: {option.help}", field=f"{FIELD}.{option.name}")
        found[option.name] = option.admit(value)
    return found
