"""Every refusal has a name, a code, a gRPC status and a retry answer; one table holds them all.

Messages say what arrived, what was expected and what to do. The table is the only place where an error meets a
status; `edgehold.proto.status` carries it over the wire and back.
"""

from typing import ClassVar


class FlError(Exception):
    """Base of every expected failure.

    retry_after_s: seconds to wait before trying again, or None where trying again cannot help.
    """

    code: ClassVar[str] = "fl_error"
    status: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class RejectedUpdate(FlError):
    """An upload that must not be counted."""

    code = "rejected_update"
    status = "INVALID_ARGUMENT"


class TooLarge(RejectedUpdate):
    """A message, its metadata or a declared total is above its limit."""

    code = "too_large"
    status = "RESOURCE_EXHAUSTED"


class WrongShape(RejectedUpdate):
    """Length, type, shape or kind differs from the schema, or the bytes do not decode."""

    code = "wrong_shape"


class NotFinite(RejectedUpdate):
    """A number is NaN or infinite."""

    code = "not_finite"


class NotPermutation(RejectedUpdate):
    """A ranking is not a permutation."""

    code = "not_permutation"


class NotOrthonormal(RejectedUpdate):
    """A basis is not orthonormal."""

    code = "not_orthonormal"


class OutsideLaw(RejectedUpdate):
    """A value is finite and well formed but outside what the method allows."""

    code = "outside_law"


class Duplicate(RejectedUpdate):
    """A second, different upload for a task that already has one."""

    code = "duplicate"
    status = "ALREADY_EXISTS"


class Stale(RejectedUpdate):
    """Another round, attempt, nonce, plan, base model or protocol version than the server expects."""

    code = "stale"
    status = "FAILED_PRECONDITION"

    def __init__(self, message: str, *, retry_after_s: float | None = None, supported_versions: tuple[int, ...] = ()) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.supported_versions = supported_versions


class TransferError(FlError):
    """Bytes did not get across; nothing was counted."""

    code = "transfer_error"
    status = "UNAVAILABLE"


class PeerGone(TransferError):
    """The other side stopped moving bytes."""

    code = "peer_gone"
    status = "DEADLINE_EXCEEDED"


class Interrupted(TransferError):
    """Chunks do not fit together. Subclasses say how, because each has its own answer."""

    code = "interrupted"
    status = "ABORTED"


class BeyondOffset(Interrupted):
    """A chunk starts beyond the expected offset; resume at `expected_offset`."""

    code = "beyond_offset"
    status = "OUT_OF_RANGE"

    def __init__(self, message: str, *, expected_offset: int = 0, retry_after_s: float | None = 0.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.expected_offset = expected_offset


class Conflicting(Interrupted):
    """A chunk overlaps bytes already received and differs from them; the upload is discarded."""

    code = "conflicting"
    status = "ABORTED"


class Corrupted(Interrupted):
    """The whole payload does not match its declared digest; the upload is discarded."""

    code = "corrupted"
    status = "DATA_LOSS"


class Busy(TransferError):
    """Too many calls, uploads or token failures, or too little disk; come back after the wait."""

    code = "busy"
    status = "RESOURCE_EXHAUSTED"


class Draining(TransferError):
    """The server is starting or stopping."""

    code = "draining"
    status = "UNAVAILABLE"


class NotFound(FlError):
    """The named run, round or blob does not exist here."""

    code = "not_found"
    status = "NOT_FOUND"


class MaskRefused(FlError):
    """A device does not take part in a masked sum on these terms; nothing that unmasks it has left.

    reason: one word for audit and counters; the message says what arrived and what was expected.
    """

    code = "mask_refused"
    status = "FAILED_PRECONDITION"

    def __init__(self, message: str, *, reason: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason

    @property
    def audit(self) -> str:
        """The line for the audit log: code, reason, message."""
        return f"{self.code} {self.reason}: {self.message}"


class TermsRefused(MaskRefused):
    """Model, plan, round, attempt or the form of the vector is another than this device was tasked with, or impossible."""

    code = "mask_terms"


class RosterRefused(MaskRefused):
    """The group's roster is too small, names somebody twice, or is not the one that was drawn."""

    code = "mask_roster"


class AdvertRefused(MaskRefused):
    """A member's keys are not signed by a client of this federation for this attempt."""

    code = "mask_advert"


class SharesRefused(MaskRefused):
    """Sealed shares are missing, too few, or not what their sender sealed for this device."""

    code = "mask_shares"


class SetRefused(MaskRefused):
    """The set of survivors is unsigned, too small, or not a set of this group with this device in it."""

    code = "mask_set"


class SecondSet(SetRefused):
    """Another set of survivors for an attempt that was answered: no answer at all, only an audit line."""

    code = "mask_second_set"


class AttemptSpent(MaskRefused):
    """This device has revealed in another attempt of the round: the difference of two sums could be one device's update."""

    code = "mask_attempt_spent"


class OutOfStep(MaskRefused):
    """A step of the masked sum was asked for before the one it follows, or twice."""

    code = "mask_out_of_step"


class GroupLost(FlError):
    """A group of a masked sum has too few members left, or too few good shares: nothing of it can be unmasked."""

    code = "group_lost"
    status = "ABORTED"


class BudgetSpent(FlError):
    """The privacy budget does not allow this release."""

    code = "budget_spent"
    status = "FAILED_PRECONDITION"


class LedgerRolledBack(FlError):
    """The privacy ledger is older than one that was seen before: a restored backup, which forgets what was released."""

    code = "ledger_rolled_back"
    status = "FAILED_PRECONDITION"


class IdentityError(FlError):
    """Who is calling is unknown, not allowed, or not who it says."""

    code = "identity"
    status = "PERMISSION_DENIED"


class BadSignature(IdentityError):
    """A manifest or advert is not signed by the key in the caller's certificate."""

    code = "bad_signature"
    status = "UNAUTHENTICATED"


class EquivocationError(FlError):
    """One sender, one task, two different statements: somebody told different readers different things."""

    code = "equivocation"
    status = "DATA_LOSS"


class ConfigError(FlError):
    """A plan, policy or configuration file asks for something impossible.

    field: dotted path of the offending key, for machines; the message already names it.
    """

    code = "config"
    status = "FAILED_PRECONDITION"

    def __init__(self, message: str, *, field: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.field = field


class NotGranted(ConfigError):
    """An attack asks for more knowledge than its plan grants: updates of others, or the server's rule."""

    code = "not_granted"


class PolicyRefused(FlError):
    """The device owner's policy forbids the task."""

    code = "policy_refused"
    status = "FAILED_PRECONDITION"


class ModelRefused(FlError):
    """A model that was handed over must not be run here; whatever was deployed before stays."""

    code = "model_refused"
    status = "FAILED_PRECONDITION"


class Downgrade(ModelRefused):
    """An older model than one that was deployed before, which anybody who has kept it could hand over again."""

    code = "downgrade"


class SelfCheckFailed(ModelRefused):
    """The model does not give on this device what its manifest says it gives."""

    code = "self_check_failed"


class JournalError(FlError):
    """The journal, the ledger or an fsync failed; the process stops."""

    code = "journal"
    status = "INTERNAL"


REJECTIONS: tuple[type[FlError], ...] = (RejectedUpdate, IdentityError, Conflicting, Corrupted)
"""What an upload is turned away with for good; after any other error the same bytes may come again."""


def _walk(cls: type[FlError]) -> list[type[FlError]]:
    return [cls] + [found for child in cls.__subclasses__() for found in _walk(child)]


ERRORS: dict[str, type[FlError]] = {cls.code: cls for cls in _walk(FlError)}
"""Code -> class, for every error there is."""
