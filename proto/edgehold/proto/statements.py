"""Signed upload statements and the manifests they travel in, on either side and between devices."""

from edgehold.core.manifest import UploadStatement
from edgehold.proto.strict import exactly, name, text
from edgehold.proto.v1.control_pb2 import TaskId
from edgehold.proto.v1.transfer_pb2 import Manifest


def statement_of(manifest: Manifest) -> UploadStatement:
    """The signed fields of a manifest, each of legal form; `WrongShape` names the one that is not."""
    task = manifest.task
    return UploadStatement(
        manifest.protocol_version,
        name(manifest.federation, "federation"),
        exactly(manifest.plan_digest, 32, "plan digest"),
        name(task.run, "run"),
        task.round,
        task.attempt,
        exactly(task.nonce, 32, "nonce"),
        name(manifest.client_id, "client id"),
        exactly(manifest.base_digest, 32, "base digest"),
        text(manifest.payload_kind, "payload kind"),
        manifest.payload_length,
        exactly(manifest.payload_digest, 32, "payload digest"),
    )


def manifest_of(statement: UploadStatement) -> Manifest:
    """The statement as it travels."""
    return Manifest(
        protocol_version=statement.protocol_version,
        federation=statement.federation,
        plan_digest=statement.plan_digest,
        task=TaskId(run=statement.run, round=statement.round, attempt=statement.attempt, nonce=statement.nonce),
        client_id=statement.client_id,
        base_digest=statement.base_digest,
        payload_kind=statement.payload_kind,
        payload_length=statement.payload_length,
        payload_digest=statement.payload_digest,
    )
