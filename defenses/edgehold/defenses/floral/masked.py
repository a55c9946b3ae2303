"""Heads under masks: FedAvg's form, as heads are folded as changes of a head of 0. The clip bounds whole heads, then."""

from edgehold.defenses.baselines.fedavg.masked import entries, form, largest

__all__ = ["entries", "form", "largest"]
