"""`./scripts/bench`: run one benchmark, print its table, keep its JSON."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks import frame
from edgehold.core.errors import ConfigError, FlError


def _list(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        for name in frame.BENCHMARKS:
            click.echo(f"{name:12} {frame.find(name).SUMMARY}")
        ctx.exit()


@click.command(epilog="Start with: ./scripts/bench --list; ./scripts/bench rounds --only idle")
@click.argument("name")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write the rows here.")
@click.option("--only", default="", metavar="TEXT", help="Measure only rows whose name contains this.")
@click.option("--rounds", default=6, show_default=True, type=click.IntRange(2), help="Rounds per row; the first is left out.")
@click.option("--quick", is_flag=True, help="Tiny rows: shows that everything works, says nothing about speed.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Where federations live meanwhile."
)
@click.option("--peer", is_flag=True, help="Measure another product too (rules, byzantine, masks, private, attacks).")
@click.option("--shape", nargs=2, type=click.IntRange(3), help="Clients, and values each, where a benchmark asks (spool).")
@click.option("--write-docs", is_flag=True, help="Keep the result in benchmarks/results and its table in docs/benchmarks.md.")
@click.option(
    "--from", "source", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Measure nothing: use this JSON."
)
@click.option(
    "--against", type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Also compare with this earlier JSON: exit code 1 when a number with a target is worse by more than 10 %.",
)  # fmt: skip
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Name every benchmark.")
def main(
    name: str,
    json_file: Path | None,
    only: str,
    rounds: int,
    quick: bool,
    folder: Path | None,
    peer: bool,
    shape: tuple[int, int] | None,
    write_docs: bool,
    source: Path | None,
    against: Path | None,
) -> None:
    """Run the benchmark NAME and print what came out beside what was asked for. Exit code 1 when a target is missed."""
    compared: list[dict[str, Any]] = []
    try:
        benchmark = frame.find(name)
        # Read first: --write-docs may write over it.
        earlier = None if against is None else json.loads(against.read_text(encoding="utf-8"))
        if source is not None:
            found: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
        else:
            options = frame.Options(rounds, quick, only, peer=peer, shape=shape)
            if folder is not None:
                options = frame.Options(rounds, quick, only, folder, peer, shape)
            found = _measured(benchmark, options)
        click.echo(frame.table(found["rows"]))
        if json_file is not None:
            json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if write_docs:
            frame.save(name, found)
        if earlier is not None:
            compared = frame.against([row for row in earlier["rows"] if only.lower() in row["work"].lower()], found["rows"])
            click.echo(f"\n{frame.told(compared)}")
    except FlError as error:
        click.echo(f"bench: {error.message} [{error.code}]", err=True)
        sys.exit(2)
    sys.exit(0 if all(row["holds"] for row in [*found["rows"], *compared]) else 1)


def _measured(benchmark: frame.Benchmark, options: frame.Options) -> dict[str, Any]:
    where, at = frame.machine(), frame.commit()
    rows: list[frame.Row] = []
    for row in benchmark.rows(options):
        rows.append(row)
        options.say(f"{row.work}: {frame.number(row.value)} {row.unit}")
    if not rows:
        kept = frame.RESULTS / f"{benchmark.NAME}.json"
        names = [row["work"] for row in json.loads(kept.read_text(encoding="utf-8"))["rows"]] if kept.exists() else []
        raise ConfigError(f"nothing was measured with --only {options.only!r}; rows of {benchmark.NAME}: {'; '.join(names)}")
    return frame.result(rows, where, at)


if __name__ == "__main__":
    main(prog_name="scripts/bench")
