"""Plans of reproductions: everybody who is asked answers, and no round closes without them."""

from collections.abc import Mapping
from typing import Any

from edgehold.attacks.testbed import toml


def whole_cohort(name: str, rounds: int, seed: int, cohort: int, every: int, method: Mapping[str, Any], **more: Any) -> str:
    """A plan as TOML. cohort: clients in every round, all of them needed; every: rounds between scores; method: its table, with
    its name; more: further keys of the cohort's table.
    """
    return toml({
        "run": {"name": name, "rounds": rounds, "task": "reproduction", "seed": seed},
        "cohort": {"size": cohort, "quorum": cohort, "over_select": 1.0, **more},
        "evaluation": {"every": every},
        "method": method,
    })  # fmt: skip
