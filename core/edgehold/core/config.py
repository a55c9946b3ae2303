"""TOML to frozen structs, parsed once; a wrong key is one line that names it, what was found and what is allowed."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgehold.core.errors import ConfigError

T = TypeVar("T")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table of a configuration file, plan or policy."""


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The document as nested dictionaries; `ConfigError` with line and column when it is no TOML."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{source}: not valid TOML: arrays or tables nested too deeply") from None
    except ValueError as error:  # also a number of too many digits, which is no TOMLDecodeError
        raise ConfigError(f"{source}: not valid TOML: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The document in a file; `ConfigError` when it is missing, unreadable or no TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse_toml(text, str(path))


def convert(data: Any, kind: type[T], source: str, prefix: str = "") -> T:
    """`data` as `kind`. source: file or place to name in errors; prefix: dotted path of `data` within it."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error), data, kind, source, prefix) from None


def suggest(found: str, allowed: list[str]) -> str:
    """'; did you mean "x"? Allowed: ...' for an unknown word."""
    near = difflib.get_close_matches(found, allowed, n=1, cutoff=0.5)
    hint = f'; did you mean "{near[0]}"?' if near else ";"
    return f"{hint} allowed: {', '.join(sorted(allowed))}"


def _explain(message: str, data: Any, kind: Any, source: str, prefix: str) -> ConfigError:
    what, _, path = message.partition(" - at `")
    path = path.rstrip("`").removeprefix("$").removeprefix(".")
    unknown = re.search(r"contains unknown field `(.+?)`", what)
    missing = re.search(r"missing required field `(.+?)`", what)
    parts = [part for part in (prefix, path) if part]
    if unknown or missing:
        key = (unknown or missing).group(1)  # type: ignore[union-attr]
        field = ".".join([*parts, key])
        if missing:
            return ConfigError(f"{source}: {field} is missing", field=field)
        allowed = _fields_at(kind, path)
        return ConfigError(f"{source}: unknown key {field}{suggest(key, allowed)}", field=field)
    field = ".".join(parts)
    return ConfigError(f"{source}: {field} = {_value_at(data, path)!r}: {what[0].lower()}{what[1:]}", field=field)


def _value_at(data: Any, path: str) -> Any:
    for part in filter(None, re.split(r"\.|\[(\d+|\.\.\.)\]", path)):
        try:
            data = data[int(part)] if isinstance(data, list) else data[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return "..."
    return data


def _fields_at(kind: Any, path: str) -> list[str]:
    for part in filter(None, path.split(".")):
        info = {field.name: field.type for field in msgspec.structs.fields(kind)} if _is_struct(kind) else {}
        kind = info.get(part) or next(iter(getattr(kind, "__args__", ())[-1:]), None)
        kind = next((arg for arg in getattr(kind, "__args__", ()) if _is_struct(arg)), kind)
    return [field.encode_name for field in msgspec.structs.fields(kind)] if _is_struct(kind) else []


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
