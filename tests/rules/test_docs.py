"""docs/rules.md says of every rule and pre-step what its record says."""

from pathlib import Path

import pytest

from edgehold.defenses.baselines.rules import PRE_STEPS, RULES

PAGE = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*RULES, *PRE_STEPS])
def test_page_tells_what_the_record_says(name: str) -> None:
    card = (RULES[name] if name in RULES else PRE_STEPS[name]).card
    options = (RULES[name] if name in RULES else PRE_STEPS[name]).options
    start = f"| `{name}` | {card.summary} | {card.assumes} | {card.fails_when} | {card.cost} |"
    line = next((line for line in PAGE.splitlines() if line.startswith(start)), None)
    assert line is not None, f"docs/rules.md needs a line: {start} options | {card.source} |"
    assert line.endswith(f"| {card.source} |")
    assert all(f"`{option.name}`" in line for option in options)
