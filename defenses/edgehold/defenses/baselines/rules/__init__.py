"""Rules that combine n updates into one, with pre-steps, by the name they have in a plan: "nnm+trimmed_mean"."""

from edgehold.defenses.baselines.rules.catalogue import PRE_STEPS, RULES, Card, PreStep, Rule
from edgehold.defenses.baselines.rules.recipe import Recipe, Round, recipe
from edgehold.defenses.baselines.rules.rows import Rows, VectorRows

__all__ = ["PRE_STEPS", "RULES", "Card", "PreStep", "Recipe", "Round", "Rows", "Rule", "VectorRows", "recipe"]
