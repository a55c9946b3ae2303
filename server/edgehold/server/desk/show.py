"""What an operator sees: tables, and a run's progress while it happens."""

import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from edgehold.proto.v1 import admin_pb2 as pb


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON-ready values; digests as hex."""
    data: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.type == field.TYPE_BYTES:
            data[field.name] = value.hex()
        elif isinstance(value, Message):
            data[field.name] = plain(value)
        elif field.type == field.TYPE_MESSAGE and isinstance(data.get(field.name), list):
            data[field.name] = [plain(one) for one in value]
        elif field.type in (field.TYPE_UINT64, field.TYPE_INT64) and field.name in data:
            data[field.name] = int(data[field.name])
    return data


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def when(unix_s: float) -> str:
    """A moment for people, UTC; "-" for none."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if unix_s else "-"


def table(titles: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as they need to be."""
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [titles, *rows]
    )


def runs(infos: list[pb.RunInfo]) -> str:
    """Runs as a table."""
    rows = [
        [
            info.run, info.state, info.method + (f"/{info.rule}" if info.rule else ""),
            f"{info.rounds_done}/{info.rounds_planned}",
            f"{info.latest.facts['accuracy']:.3f}" if "accuracy" in info.latest.facts else "-",
            spent(info.latest.facts) or "-", f"{info.seconds:.1f}", when(info.created_unix_s),
            info.model_digest.hex()[:12] or "-",
        ]
        for info in infos
    ]  # fmt: skip
    return table(["RUN", "STATE", "METHOD", "ROUNDS", "ACCURACY", "EPSILON", "SECONDS", "SUBMITTED", "MODEL"], rows)


def spent(facts: Mapping[str, float]) -> str:
    """What a private run has cost its clients so far, worst and median; "" for a run that is not private."""
    if "epsilon_worst" not in facts:
        return ""
    return f"{facts['epsilon_worst']:.2f} worst, {facts['epsilon_median']:.2f} median"


def clients(infos: list[pb.ClientInfo]) -> str:
    """The roster as a table."""
    rows = [
        [
            info.client_id, info.state, "yes" if info.enrolled else "no", "yes" if info.connected else "no",
            str(info.updates_admitted), str(info.updates_rejected), when(info.certificate_expires_unix_s),
            ", ".join(info.allowed_plans) or "any",
        ]
        for info in infos
    ]  # fmt: skip
    return table(["CLIENT", "STATE", "ENROLLED", "CONNECTED", "ADMITTED", "REJECTED", "CERTIFICATE UNTIL", "TASKS"], rows)


def round_line(info: pb.RoundInfo, rounds: int) -> str:
    """One round on one line."""
    facts = info.facts
    score = f"  accuracy {facts['accuracy']:.3f}" if "accuracy" in facts else ""
    if "epsilon_worst" in facts:
        score += f"  epsilon {spent(facts)}"
    if "mask_groups" in facts:
        bad = int(facts["mask_groups_void"]), int(facts["mask_groups_lost"])
        score += f"  {int(facts['mask_groups'])} masked groups" + (f" ({bad[0]} void, {bad[1]} lost)" if any(bad) else "")
    if info.state != "committed":
        return f"round {info.round:>4}/{rounds}  {info.state} (attempt {info.attempt})"
    return (
        f"round {info.round:>4}/{rounds}  {int(facts['clients_admitted'])}/{int(facts['clients_selected'])} clients{score}"
        f"  up {size(facts['bytes_up'])}  down {size(facts['bytes_down'])}  {facts['round_seconds']:.2f} s"
    )


async def follow(events: AsyncIterator[pb.WatchRunResponse], as_json: bool) -> pb.RunInfo:
    """Show a run while it happens: a live bar on a terminal, a line a round elsewhere, JSON lines when asked."""
    import sys

    if as_json or not sys.stderr.isatty():
        return await _lines(events, as_json)
    return await _bar(events)


async def _lines(events: AsyncIterator[pb.WatchRunResponse], as_json: bool) -> pb.RunInfo:
    last, scored = pb.RunInfo(), set[int]()
    async for event in events:
        if as_json:
            click.echo(json.dumps(plain(event)))
        if event.HasField("run"):
            last = event.run
        elif not as_json and not (event.round.state == "committed" and event.round.round in scored):
            # A scored round comes twice, first without its score: say each once, the score when it is known.
            if "accuracy" in event.round.facts:
                scored.add(event.round.round)
            click.echo(round_line(event.round, last.rounds_planned), err=True)
    return last


async def _bar(events: AsyncIterator[pb.WatchRunResponse]) -> pb.RunInfo:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"),
        TextColumn("{task.fields[clients]}"), TextColumn("accuracy {task.fields[accuracy]}"),
        TextColumn("up {task.fields[up]} down {task.fields[down]}"), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    last, up, down, seen = pb.RunInfo(), 0.0, 0.0, set[int]()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=None, clients="- clients", accuracy="-", up="0 B", down="0 B")
        async for event in events:
            if event.HasField("run"):
                last = event.run
                progress.update(bar, description=last.run, total=last.rounds_planned)
                continue
            facts = event.round.facts
            if event.round.state != "committed":
                progress.console.print(round_line(event.round, last.rounds_planned))
                continue
            if event.round.round not in seen:
                seen.add(event.round.round)
                up, down = up + facts["bytes_up"], down + facts["bytes_down"]
                progress.update(bar, completed=event.round.round, up=size(up), down=size(down))
                progress.update(bar, clients=f"{int(facts['clients_admitted'])}/{int(facts['clients_selected'])} clients")
            if "accuracy" in facts:
                progress.update(bar, accuracy=f"{facts['accuracy']:.3f}")
    return last


def parity(found: Mapping[str, Any]) -> list[str]:
    """A certificate of parity in a few lines."""
    whose = (
        f"{found['records']} real records" if found["records"] else f"{found['drawn']} drawn records (the task has no others)"
    )
    lines = [
        f"against {found['reference']} on {whose}: off by {found['max_abs']:.2e} at most, {found['mean_abs']:.2e} on average"
    ]
    if found["same_decision"] is not None:
        lines.append(f"same decision on {found['same_decision']:.2%}")
    for name, before in found["before"].items():
        lines.append(f"{name} {before:.4f} before, {found['after'][name]:.4f} after, on {found['judged']} records")
    if found["size_ratio"] != 1:
        lines.append(f"{found['size_ratio']:.3f} of the float32 graph's {size(found['float_bytes'])}")
    lines.append(f"one record takes {found['latency']['one_median_ms']:.3f} ms here, on one thread")
    return lines
