"""`fl-server noise`: which noise keeps the clients of a plan within a privacy budget, and what the plan costs as it stands."""

import json
from pathlib import Path
from typing import Any

import click

from edgehold.core.command import as_json_option
from edgehold.core.errors import ConfigError


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
