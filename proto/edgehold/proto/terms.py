"""The terms of a masked sum, as a task says them: into a record and back, checked for lengths and names and nothing else."""

from edgehold.core.errors import WrongShape
from edgehold.core.masks.terms import CIPHERS, Terms
from edgehold.proto.strict import exactly
from edgehold.proto.v1.control_pb2 import MaskTerms, TaskAssignment


def terms_of(task: TaskAssignment) -> Terms:
    """The terms that a task speaks of. Whether a sum can be made on them is `Terms.fault`'s to say."""
    said, where = task.mask, task.id
    if said.cipher not in CIPHERS:
        raise WrongShape(f"cipher {said.cipher[:64]!r}; allowed: {', '.join(CIPHERS)}")
    return Terms(
        federation=task.federation,
        plan_digest=task.plan_digest,
        run=where.run,
        round=where.round,
        attempt=where.attempt,
        nonce=where.nonce,
        base_digest=task.base_digest,
        draw_commitment=exactly(said.draw_commitment, 32, "draw commitment"),
        entries=_small(said.entries, "entries"),
        largest=_small(said.largest, "largest entry"),
        bits=said.bits,
        margin=_small(said.margin, "margin"),
        cipher=CIPHERS[said.cipher],
        least=said.least,
        most=said.most,
        clip=said.clip,
        norm=said.norm,
        variance=said.variance,
        helpers=said.helpers,
    )


def said_of(terms: Terms) -> MaskTerms:
    """What of the terms a task says."""
    return MaskTerms(
        draw_commitment=terms.draw_commitment,
        entries=terms.entries,
        largest=terms.largest,
        bits=terms.bits,
        margin=terms.margin,
        cipher=terms.cipher,
        least=terms.least,
        most=terms.most,
        clip=terms.clip,
        norm=terms.norm,
        variance=terms.variance,
        helpers=terms.helpers,
    )


def _small(value: int, what: str) -> int:
    if value >= 1 << 40:
        raise WrongShape(f"{what} of {value}; fewer than 2^40 are possible")
    return value
