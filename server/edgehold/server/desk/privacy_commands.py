"""`fl-server noise|ledger`: how much noise a budget takes, and what the server itself has spent of its own budgets."""

import json
from pathlib import Path
from typing import Any

import click

from edgehold.core.command import as_json_option
from edgehold.core.errors import ConfigError
from edgehold.server.desk.options import home_option


@click.command()
@click.argument("plan", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--epsilon", required=True, type=click.FloatRange(0, 1000, min_open=True), help="What a client may spend on this run."
)
@click.option("--delta", default=1e-5, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True))
@click.option(
    "--values", default=1_000_000, show_default=True, type=click.IntRange(1),
    help="Values of the model; matters in the fifth digit, by the grid on which noise is drawn.",
)  # fmt: skip
@as_json_option
def noise(plan: Path, epsilon: float, delta: float, values: int, as_json: bool) -> None:
    """The least noise_multiplier with which a client may take part in all rounds of PLAN within (--epsilon, --delta).

    Nothing is sent anywhere. Rounds that are tried again cost again: leave them room.

    Example: fl-server noise plan.toml --epsilon 6 --delta 1e-5
    """
    from edgehold.core.plan import parse_plan
    from edgehold.defenses import registry

    try:
        text = plan.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{plan}: cannot be read: {error}") from None
    parsed, settings = parse_plan(text, registry.method, str(plan))
    accounts = registry.accounts(str(parsed.method["name"]))
    rounds = parsed.run.rounds
    planned = settings.training()
    found = accounts.noise_for(planned, values, rounds, epsilon, delta)
    said: dict[str, Any] = {
        "noise_multiplier": found.noise_multiplier,
        "epsilon": accounts.epsilon_after(found, values, rounds, delta),
        "delta": delta,
        "rounds": rounds,
        "plan_noise_multiplier": planned.noise_multiplier,
        "plan_epsilon": accounts.epsilon_after(planned, values, rounds, delta),
    }
    if as_json:
        click.echo(json.dumps(said))
        return
    click.echo(f"noise_multiplier = {said['noise_multiplier']:.6g}   # epsilon {said['epsilon']:.4f} after {rounds} rounds")
    click.echo(
        f"The plan says {said['plan_noise_multiplier']:g}, which makes epsilon {said['plan_epsilon']:.4f} at delta {delta:g}."
    )


@click.command()
@click.option("--task", help="Only this task.")
@home_option
@as_json_option
def ledger(task: str | None, home: Path, as_json: bool) -> None:
    """The bill of methods whose noise the server adds: what every run has spent of the budgets in server.toml.

    Devices whose own noise protects them keep ledgers of their own: `fl-client ledger`.

    Example: fl-server ledger --home /var/lib/fl-server
    """
    from edgehold.core.privacy.bill import bill, told
    from edgehold.core.privacy.ledger import Limit
    from edgehold.server.config import load

    budgets = {name: Limit(one.max_epsilon, one.delta) for name, one in load(home).budgets.items()}
    found = bill(home / "ledger.db", budgets, task)
    click.echo(json.dumps(found) if as_json else told(found))


COMMANDS = (noise, ledger)
