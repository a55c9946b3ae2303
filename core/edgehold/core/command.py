"""What both command lines share: failures become one line and an exit code, findings become a checklist."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import click

from edgehold.core.about import VERSION
from edgehold.core.errors import ConfigError, FlError

as_json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


version_option = click.version_option(VERSION, "--version", message="edgehold %(version)s")

EXTRAS = {
    "grpc_health": "server", "jinja2": "server", "prometheus_client": "server", "rich": "server", "torch": "train",
    "sklearn": "eval", "matplotlib": "eval", "psutil": "eval", "scipy": "eval", "ray": "ray",
    "PIL": "tables", "pyarrow": "tables", "onnx": "export", "onnxscript": "export", "onnxruntime": "device",
}  # fmt: skip
"""Module -> the extra that brings it."""

_JSON = "edgehold.as_json"


class Commands(click.Group):
    """Commands whose `FlError` becomes one line on stderr (JSON with --json) and exit code 1."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember whether JSON was asked for, whichever command it was asked of."""
        ctx.meta[_JSON] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except FlError as error:
            _fail(ctx.info_name or "", error, ctx.meta[_JSON])
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module not in EXTRAS:
                raise
            missing = ConfigError(f"this needs {module}, which is not installed here: pip install 'edgehold[{EXTRAS[module]}]'")
            _fail(ctx.info_name or "", missing, ctx.meta[_JSON])


def _fail(program: str, error: FlError, as_json: bool) -> NoReturn:
    if as_json:
        said = {"error": error.code, "message": error.message}
        if isinstance(error, ConfigError) and error.field:
            said["field"] = error.field
        click.echo(json.dumps(said), err=True)
    else:
        click.echo(f"{program}: {error.message} [{error.code}]", err=True)
    sys.exit(1)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a preflight. detail: what was seen; todo: how to mend it, empty when it is fine."""

    name: str
    ok: bool
    detail: str
    todo: str = ""


def examine(name: str, look: Callable[[], str], todo: str) -> Finding:
    """The finding of one look: its words when it succeeds, the failure and what to do when it raises."""
    try:
        return Finding(name, True, look())
    except FlError as error:
        return Finding(name, False, error.message, todo)
    except Exception as error:
        return Finding(name, False, f"{type(error).__name__}: {error}", todo)


def report(findings: Sequence[Finding], as_json: bool) -> NoReturn:
    """Print a checklist and exit: 0 when everything is fine, 1 otherwise."""
    ok = all(finding.ok for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": ok, "checks": [asdict(finding) for finding in findings]}))
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name}: {finding.detail}")
            if finding.todo and not finding.ok:
                click.echo(f"     -> {finding.todo}")
    sys.exit(0 if ok else 1)
