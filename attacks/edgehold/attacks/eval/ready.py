"""Plan files that come with the package: by name, beside the reader's own files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Ready:
    """package: its folder `ready` holds them, TOML files whose first line says what each is. what: the word for one of them."""

    package: str
    what: str

    def texts(self) -> Mapping[str, str]:
        """Name -> text of the file."""
        found = [one for one in (files(self.package) / "ready").iterdir() if one.name.endswith(".toml")]
        found.sort(key=lambda one: one.name)
        return {one.name.removesuffix(".toml"): one.read_text(encoding="utf-8") for one in found}

    def text_of(self, wanted: str) -> str:
        """The text of a ready one by name, or of a file; `ConfigError` where there is neither."""
        known = self.texts()
        if wanted in known:
            return known[wanted]
        path = Path(wanted)
        if not path.is_file():
            raise ConfigError(
                f"no {self.what} {wanted!r}: neither a file nor a ready one{suggest(wanted, list(known))}", field="plan"
            )
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}", field="plan") from None

    def list_option(self, help: str) -> Callable[[Any], Any]:
        """The option `--list` of a command."""

        def listed(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
            if wanted:
                for name, text in self.texts().items():
                    click.echo(f"{name:14} {text.splitlines()[0].lstrip('# ')}")
                ctx.exit()

        return click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=listed, help=help)
