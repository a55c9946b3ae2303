"""Is this task whole, legal, meant for this device, and signed by the server it was enrolled with?"""

import hashlib
import math

from cryptography.exceptions import InvalidSignature

from edgehold.client.identity import Credentials
from edgehold.client.keep import TaskKey
from edgehold.core.contract import HEADER_LIMIT
from edgehold.core.errors import BadSignature, IdentityError, Stale, TooLarge, WrongShape
from edgehold.core.manifest import SUPPORTED_VERSIONS, TaskStatement
from edgehold.proto.strict import exactly, name
from edgehold.proto.terms import terms_of
from edgehold.proto.v1.control_pb2 import TaskAssignment, TaskId


def key_of(task: TaskId) -> TaskKey:
    """The task's id as the keep names it."""
    return TaskKey(task.run, task.round, task.attempt, task.nonce)


def verify(assignment: TaskAssignment, credentials: Credentials, client_id: str | None = None) -> None:
    """Return if the task is whole, legal, meant for this client and signed by its server; else the refusal that says why.

    client_id: of another client, who shows its own task.
    """
    where = assignment.id
    name(where.run, "run")
    name(assignment.task, "task")
    name(assignment.method, "method")
    if where.round < 1:
        raise WrongShape(f"round {where.round}; rounds count from 1")
    for value, length, what in (
        (where.nonce, 32, "nonce"),
        (assignment.plan_digest, 32, "plan digest"),
        (assignment.base_digest, 32, "base digest"),
        (assignment.roster_digest, 32, "roster digest"),
        (assignment.schema_digest, 32, "schema digest"),
        (assignment.signature, 64, "signature"),
    ):
        exactly(value, length, what)
    if len(assignment.header) > HEADER_LIMIT:
        raise TooLarge(f"task header of {len(assignment.header)} bytes; at most {HEADER_LIMIT} are accepted")
    if not (math.isfinite(assignment.deadline_s) and assignment.deadline_s > 0):
        raise WrongShape(f"deadline_s = {assignment.deadline_s}; expected a positive number of seconds")
    if assignment.inline_body and len(assignment.inline_body) != assignment.base_length:
        raise WrongShape(f"inline body of {len(assignment.inline_body)} bytes; {assignment.base_length} are declared")
    if assignment.protocol_version not in SUPPORTED_VERSIONS:
        raise Stale(f"task of protocol version {assignment.protocol_version}", supported_versions=SUPPORTED_VERSIONS)
    if assignment.federation != credentials.federation:
        raise IdentityError(f"task of federation {assignment.federation[:64]!r}; this device is of {credentials.federation!r}")
    statement = TaskStatement(
        protocol_version=assignment.protocol_version,
        federation=assignment.federation,
        plan_digest=assignment.plan_digest,
        run=where.run,
        round=where.round,
        attempt=where.attempt,
        nonce=where.nonce,
        client_id=credentials.client_id if client_id is None else client_id,
        base_digest=assignment.base_digest,
        base_length=assignment.base_length,
        header_digest=hashlib.sha256(assignment.header).digest(),
        roster_digest=assignment.roster_digest,
        schema_digest=assignment.schema_digest,
        task=assignment.task,
        method=assignment.method,
        masked=terms_of(assignment).transcript if assignment.HasField("mask") else b"",
    )
    try:
        credentials.server_signing_key.verify(assignment.signature, statement.signing_input())
    except InvalidSignature:
        raise BadSignature("the task is not signed by the server this device was enrolled with") from None
