"""One filled-in example of every message on the wire, and of everything that is signed; the same bytes on every machine."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from edgehold.core import handover
from edgehold.core.keys import enrol_statement
from edgehold.core.manifest import TaskStatement, UploadStatement, roster_digest, signing_input
from edgehold.proto.v1 import (
    admin_pb2,
    control_pb2,
    enrolment_pb2,
    mailbox_pb2,
    masks_pb2,
    payloads_pb2,
    peers_pb2,
    transfer_pb2,
)

FILES = (admin_pb2, control_pb2, enrolment_pb2, mailbox_pb2, masks_pb2, payloads_pb2, peers_pb2, transfer_pb2)


def kinds() -> dict[str, type[Message]]:
    """Every message of every .proto file, by name."""
    return {
        name: GetMessageClass(descriptor)
        for file in FILES
        for name, descriptor in file.DESCRIPTOR.message_types_by_name.items()
    }


def requests() -> dict[str, type[Message]]:
    """Messages that a server takes from a caller."""
    return {
        method.input_type.name: GetMessageClass(method.input_type)
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def replies() -> dict[str, type[Message]]:
    """Messages that a client takes from a server."""
    return {
        method.output_type.name: GetMessageClass(method.output_type)
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def examples(kind: type[Message]) -> Iterator[tuple[str, Message]]:
    """Filled-in messages of a kind, one for each member of its oneof (or one): values depend on the fields' names, so that
    two fields that change places change the bytes.
    """
    choices: Sequence[Any] = [None]
    if kind.DESCRIPTOR.oneofs:
        choices = list(kind.DESCRIPTOR.oneofs[0].fields)
    for chosen in choices:
        name = kind.DESCRIPTOR.name + (f".{chosen.name}" if chosen else "")
        yield name, _filled(kind, chosen)


def serialized(message: Message) -> bytes:
    """The bytes, maps in order."""
    return message.SerializeToString(deterministic=True)


def statements() -> dict[str, bytes]:
    """The bytes that are signed, for fixed inputs."""
    digest = [hashlib.sha256(bytes([i])).digest() for i in range(8)]
    upload = UploadStatement(1, "lab", digest[0], "run-1", 2, 3, digest[1], "dev-1", digest[2], "fedavg/1", 1 << 33, digest[3])
    task = TaskStatement(
        1, "lab", digest[0], "run-1", 2, 3, digest[1], "dev-1", digest[2], 4, digest[4], roster_digest(("b", "a")), digest[5],
        "digits", "fedavg", digest[6],
    )  # fmt: skip
    return {
        "signing_input": signing_input("label v1", ["", b"\x00", "\u00e9", 0, (1 << 64) - 1]),
        "roster_digest": roster_digest(["b", "a", "c"]),
        "upload": upload.signing_input(),
        "upload_digest": upload.digest(),
        "task": task.signing_input(),
        "handover": handover.statement(b"{}"),
        "enrol": enrol_statement(digest[6], "dev-1", b"request"),
    }


def _filled(kind: Any, chosen: FieldDescriptor | None = None) -> Message:
    message: Message = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.containing_oneof and (chosen or field.containing_oneof.fields[0]).name != field.name:
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            getattr(message, field.name).update({"key-b": _scalar(field.message_type.fields_by_name["value"]), "key-a": 1})
        elif field.message_type:
            inner = _filled(GetMessageClass(field.message_type))
            if field.is_repeated:
                getattr(message, field.name).extend([inner, inner])
            else:
                getattr(message, field.name).CopyFrom(inner)
                getattr(message, field.name).SetInParent()
        elif field.is_repeated:
            getattr(message, field.name).extend([_scalar(field), _scalar(field)])
        else:
            setattr(message, field.name, _scalar(field))
    return message


def _scalar(field: Any) -> Any:
    seed = hashlib.sha256(field.name.encode()).digest()
    return {
        FieldDescriptor.TYPE_STRING: field.name.replace("_", "-"),
        FieldDescriptor.TYPE_BYTES: seed,
        FieldDescriptor.TYPE_UINT32: seed[0] + 1,
        FieldDescriptor.TYPE_UINT64: int.from_bytes(seed[:5], "little"),
        FieldDescriptor.TYPE_DOUBLE: seed[0] / 8 + 0.125,
        FieldDescriptor.TYPE_BOOL: True,
    }[field.type]
