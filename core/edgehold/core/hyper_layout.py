"""Where a hypernetwork's numbers lie in one flat vector, and which tensors of a model it generates. NumPy alone.

h(v; phi): z = relu(W0 v + b0); each tensor of the extractor has an outlet W z + b of its own, reshaped. phi lies flat: W0 by
rows, b0, then outlet after outlet in the order of the schema, W by rows (or A, then B, where W = A B) before b.
What lies below `backbone`, a dotted path in the model, is frozen: neither generated nor trained (HyperFL-LPM; there the rest of
the extractor are adapters). Source: Guo et al. 2025, arXiv:2412.07187, and its code. Departure: low-rank outlets.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import FloatArray, Schema, Tensor


@dataclass(frozen=True, slots=True)
class Outlet:
    """What generates one tensor. start: where it lies in phi; place: where the tensor lies in the dense model.

    rank: of W = A B, A (size, rank), B (rank, hidden); 0: dense.
    """

    tensor: Tensor
    place: int
    hidden: int
    rank: int
    start: int

    @property
    def parts(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """(start in phi, shape) of W and b, or of A, B and b."""
        p, h, r = self.tensor.size, self.hidden, self.rank
        shapes: list[tuple[int, ...]] = [(p, r), (r, h), (p,)] if r else [(p, h), (p,)]
        starts = np.cumsum([self.start, *(prod(shape) for shape in shapes[:-1])])
        return tuple(zip(map(int, starts), shapes, strict=True))

    @property
    def stop(self) -> int:
        """Where the next one begins."""
        start, shape = self.parts[-1]
        return start + prod(shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """embedding, hidden: sizes of v and z; outlets: one per generated tensor; head: tensors that stay on the device; frozen:
    those of the backbone; places: where the frozen ones and then the head's lie in the dense model.
    """

    embedding: int
    hidden: int
    outlets: tuple[Outlet, ...]
    head: tuple[Tensor, ...]
    frozen: tuple[Tensor, ...]
    places: tuple[slice, ...]

    @classmethod
    def of(cls, schema: Schema, embedding: int, hidden: int, rank: int = 0, backbone: str = "") -> "Layout":
        """The layout for a model: its last layer is the head, everything before it that is not frozen the extractor.

        rank: of the outlets' weights where that takes fewer numbers; 0: never. `ConfigError` when nothing would be generated,
        nothing lies below `backbone`, or the head does.
        """
        tensors = schema.tensors
        layer = tensors[-1].name.rpartition(".")[0] if tensors else ""
        at = len(tensors)
        while at and tensors[at - 1].name.rpartition(".")[0] == layer:
            at -= 1
        if not at:
            raise ConfigError(
                f"the model has a single layer ({', '.join(t.name for t in tensors) or 'none'}): nothing is left to generate "
                "beside the head; HyperFL needs a model of two or more layers"
            )
        outlets: list[Outlet] = []
        frozen: list[Tensor] = []
        places: list[slice] = []
        start, place = hidden * embedding + hidden, 0
        for number, tensor in enumerate(tensors):
            below = bool(backbone) and tensor.name.startswith(f"{backbone}.")
            if below or number >= at:
                places.append(slice(place, place + tensor.size))
                frozen += [tensor] if below else []
            else:
                smaller = rank and rank * (tensor.size + hidden) < tensor.size * hidden
                outlets.append(Outlet(tensor, place, hidden, rank if smaller else 0, start))
                start = outlets[-1].stop
            place += tensor.size
        if not outlets or bool(backbone) != bool(frozen) or frozen[-1:] == [tensors[-1]]:
            names = ", ".join(tensor.name for tensor in tensors)
            raise ConfigError(
                f"backbone = {backbone!r}: {len(frozen)} of the model's tensors lie below it ({names}); at least one must, not "
                "the last layer, and at least one before that must be left to generate",
                field="method.backbone",
            )
        return cls(embedding, hidden, tuple(outlets), tensors[at:], tuple(frozen), tuple(places))

    @property
    def size(self) -> int:
        """Numbers in phi: embedding x hidden + hidden + P (hidden + 1) where no outlet is low-rank."""
        return self.outlets[-1].stop

    @property
    def extractor_size(self) -> int:
        """P."""
        return sum(outlet.tensor.size for outlet in self.outlets)

    @property
    def head_size(self) -> int:
        """Numbers that stay on the device, beside v."""
        return sum(tensor.size for tensor in self.head)

    def rest(self, model: FloatArray) -> FloatArray:
        """The frozen tensors, then the head, of a dense model, in one vector."""
        return np.concatenate([model[place] for place in self.places])

    @property
    def first(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """(start in phi, shape) of W0 and b0."""
        return (0, (self.hidden, self.embedding)), (self.hidden * self.embedding, (self.hidden,))
