"""A masked vector as an upload: its numbers and nothing else, under the same signed manifest as any update."""

from edgehold.core.contract import Payload
from edgehold.core.errors import WrongShape
from edgehold.core.masks.terms import Terms
from edgehold.core.vectors import Blob, Schema

KIND = "masked/1"
"""Payload kind, in manifests."""


class MaskedUploads:
    """Stands where a method's codec does for updates that travel as they are. There is no law to check in masked numbers."""

    kind = KIND

    def __init__(self, terms: Terms) -> None:
        self._bytes = terms.payload_bytes

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        """One size alone."""
        return self._bytes, self._bytes

    def decode_update(self, payload: Payload, schema: Schema) -> Blob:
        """The numbers where they lie; `WrongShape` for more or fewer, or anything before them."""
        if payload.header or payload.body.size != self._bytes:
            raise WrongShape(
                f"a masked vector with a header of {len(payload.header)} bytes and a body of {payload.body.size}; no header "
                f"and {self._bytes} bytes are expected"
            )
        return payload.body
