"""The run plan: what the operator asks for, in TOML, checked whole before anything starts."""

import hashlib
from collections.abc import Callable
from math import ceil
from typing import Annotated, Any, Literal

import msgspec

from edgehold.core.config import Config, convert, parse_toml
from edgehold.core.contract import Method, Needs
from edgehold.core.errors import ConfigError
from edgehold.core.masks.combine import Blend, How
from edgehold.core.masks.draw import MOST_ASKED
from edgehold.core.masks.terms import CEILING, FLOOR, LEAST, MOST, CipherName, threshold

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class RunTable(Config, frozen=True, kw_only=True):
    """[run]"""

    name: Name
    rounds: Count
    task: Name
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0


class CohortTable(Config, frozen=True, kw_only=True):
    """[cohort]: who takes part and how long the server waits.

    size: updates that close a round; quorum: fewest that may (at the deadline); over_select: clients asked per wanted update.
    """

    size: Count
    quorum: Annotated[int, msgspec.Meta(ge=1)] = 0
    over_select: Annotated[float, msgspec.Meta(ge=1.0, le=4.0)] = 1.3
    join_deadline_s: Positive = 60.0
    round_deadline_s: Positive = 300.0
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5


class ModelTable(Config, frozen=True, kw_only=True):
    """[model]: the file with the initial weights (safetensors); without it the server's own copy of the task makes them."""

    file: str | None = None


class WeightTable(Config, frozen=True, kw_only=True):
    """[weights]: claimed sample counts weigh at most `cap` times the median claim of the round."""

    by: Literal["samples", "equal"] = "samples"
    cap: Annotated[float, msgspec.Meta(ge=1.0)] = 3.0


class EvaluationTable(Config, frozen=True, kw_only=True):
    """[evaluation]: the server's own copy of the task scores the model every so many rounds (0: never)."""

    every: Annotated[int, msgspec.Meta(ge=0)] = 1


class PrivacyTable(Config, frozen=True, kw_only=True):
    """[privacy]: masked: the server sees nothing but sums over groups of devices."""

    masked: bool = False


class MasksTable(Config, frozen=True, kw_only=True):
    """[masks]: how updates are summed where `privacy.masked = true`.

    group_least (where enough devices came), group_most: members of a group. step_deadline_s: how long each step waits after
    keys are in (shares, uploads, reveals). cipher: of the masks. combine: how five groups or more become one result, "median"
    or "trimmed" mean without the share `trim` of groups at either end.

    For updates of real numbers: clip: largest absolute value of an entry (what is larger is cut); bits: of the modulus, 32 for
    the finest grid, 16 or 8 for smaller uploads. Noise: noise_multiplier times `norm` is the standard deviation of the noise
    that each sum carries at least; norm: largest Euclidean norm of an update, and the clip too where that is not given;
    helpers: members of a group whose noise is not counted on.
    """

    group_least: Annotated[int, msgspec.Meta(ge=FLOOR, le=CEILING)] = LEAST
    group_most: Annotated[int, msgspec.Meta(ge=2 * FLOOR - 1, le=CEILING)] = MOST
    step_deadline_s: Positive = 60.0
    cipher: CipherName = "aes256-ctr"
    combine: How = "median"
    trim: Annotated[float, msgspec.Meta(ge=0, lt=0.5)] = 0.2
    clip: Positive | None = None
    bits: Literal[8, 16, 32] = 32
    noise_multiplier: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    norm: Positive | None = None
    helpers: Annotated[int, msgspec.Meta(ge=0, le=CEILING)] = 0

    @property
    def blend(self) -> Blend:
        """How groups become one result."""
        return Blend(self.combine, self.trim)


class PeersTable(Config, frozen=True, kw_only=True):
    """[peers]: where devices get their peers' updates, for methods that read them.

    "relay": from the sender where both sides offer that, else from the server, which keeps the updates of a round, sealed,
    until the next one commits. "direct": from the sender alone; the server keeps none.
    """

    path: Literal["relay", "direct"] = "relay"


class Plan(Config, frozen=True, kw_only=True):
    """A whole plan. method: the [method] table as found; `settings` is what it means."""

    run: RunTable
    cohort: CohortTable
    method: dict[str, Any]
    model: ModelTable = ModelTable()
    weights: WeightTable = WeightTable()
    evaluation: EvaluationTable = EvaluationTable()
    privacy: PrivacyTable = PrivacyTable()
    peers: PeersTable = PeersTable()
    masks: MasksTable = MasksTable()

    @property
    def quorum(self) -> int:
        """Fewest admitted updates with which a round may close; by default two thirds of the cohort, rounded up."""
        return self.cohort.quorum or -(-2 * self.cohort.size // 3)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the plan with every default filled in; bound into each task and manifest."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).digest()


def parse_plan(text: str, method_of: Callable[[str], Method], source: str = "plan") -> tuple[Plan, Any]:
    """The plan and its method's settings, or the `ConfigError` that names the field to mend.

    method_of: the registry's look-up, which refuses unknown names with the nearest match.
    """
    plan = convert(parse_toml(text, source), Plan, source)
    name = plan.method.get("name")
    if not isinstance(name, str):
        raise ConfigError(f'{source}: method.name is missing; for example name = "fedavg"', field="method.name")
    try:
        method = method_of(name)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error.message}", field="method.name") from None
    settings = convert({k: v for k, v in plan.method.items() if k != "name"}, method.settings, source, "method")
    cohort = plan.cohort
    if plan.quorum > cohort.size:
        raise ConfigError(
            f"{source}: cohort.quorum = {cohort.quorum} can never be reached: cohort.size is {cohort.size}; "
            f"allowed: 1 to {cohort.size}",
            field="cohort.quorum",
        )
    _check_masks(plan, name, method.needs(settings), source)
    if plan.peers.path == "direct" and not method.needs(settings).peers:
        raise ConfigError(
            f'{source}: peers.path = "direct", but devices of method {name!r} do not read each other; drop the [peers] table',
            field="peers.path",
        )
    try:
        # Every round must be computable with the fewest updates that may close it.
        settings.check(plan.quorum)
    except ConfigError as error:
        named = error.field and error.field not in error.message
        raise ConfigError(f"{source}: {error.field + ': ' if named else ''}{error.message}", field=error.field) from None
    return plan, settings


def _check_masks(plan: Plan, name: str, needs: Needs, source: str) -> None:
    """needs: what the method asks for, with the plan's settings."""
    if not plan.privacy.masked:
        if plan.masks != MasksTable():
            raise ConfigError(
                f"{source}: a [masks] table, but privacy.masked = false: drop the table, or set privacy.masked = true",
                field="masks",
            )
        return
    if needs.individual_updates:
        raise ConfigError(
            f"{source}: privacy.masked = true, but method {name!r} with these settings needs single updates: "
            f"{needs.individual_updates}; set privacy.masked = false or choose a method or settings whose updates can be "
            "summed blindly",
            field="privacy.masked",
        )
    table = plan.masks
    if table.group_least > table.group_most:
        raise ConfigError(
            f"{source}: masks.group_least = {table.group_least} above masks.group_most = {table.group_most}",
            field="masks.group_least",
        )
    if plan.quorum < FLOOR:
        raise ConfigError(
            f"{source}: a quorum of {plan.quorum}, but a masked sum needs {FLOOR} devices: raise cohort.quorum to {FLOOR} at "
            "least (and cohort.size with it)",
            field="cohort.quorum",
        )
    asked = ceil(round(plan.cohort.size * plan.cohort.over_select, 9))
    if asked > MOST_ASKED:
        raise ConfigError(
            f"{source}: cohort.size times cohort.over_select asks {asked} devices; in a masked sum at most {MOST_ASKED} "
            "can be, as each is told of all: lower one of the two",
            field="cohort.size",
        )
    if plan.weights.by != "equal":
        raise ConfigError(
            f'{source}: weights.by = "{plan.weights.by}", but in a masked sum all devices weigh the same, as nobody sees '
            'what a single one claims: set weights.by = "equal"',
            field="weights.by",
        )
    if table.noise_multiplier and needs.charges:
        raise ConfigError(
            f"{source}: masks.noise_multiplier = {table.noise_multiplier:g}, but devices of method {name!r} with these "
            "settings add noise of their own, under an account of its own: drop it, or choose a method that adds none",
            field="masks.noise_multiplier",
        )
    if table.noise_multiplier and table.norm is None:
        raise ConfigError(
            f"{source}: masks.noise_multiplier = {table.noise_multiplier:g} without masks.norm: noise is measured in it",
            field="masks.norm",
        )
    if table.helpers > threshold(FLOOR):
        # With few devices a group may be as small as the floor, whatever group_least says.
        raise ConfigError(
            f"{source}: masks.helpers = {table.helpers}; at most {threshold(FLOOR)} in groups of {FLOOR}, the smallest that "
            "few devices give, leave somebody whose noise counts",
            field="masks.helpers",
        )
