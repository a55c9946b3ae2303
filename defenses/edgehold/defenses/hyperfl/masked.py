"""Changes of phi under masks: FedAvg's form, with as many entries as the hypernetwork has numbers."""

from edgehold.core.masks.terms import Terms
from edgehold.core.vectors import Schema
from edgehold.defenses.baselines.fedavg.masked import ChangeForm, largest
from edgehold.defenses.hyperfl.state import Settings, layout_of

__all__ = ["entries", "form", "largest"]


def entries(settings: Settings, schema: Schema) -> int:
    """The size of phi."""
    return layout_of(schema, settings).size


def form(schema: Schema, terms: Terms) -> ChangeForm:
    """How large phi is follows from the order, not from the model: the form compares with the change itself."""
    return ChangeForm(terms)
