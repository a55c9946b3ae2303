"""Noisy changes of a model under masks: FedAvg's form. The noise stays the device's own, and so does its account: cutting and
rounding what is noisy already costs nothing.
"""

from edgehold.defenses.baselines.fedavg.masked import entries, form, largest

__all__ = ["entries", "form", "largest"]
