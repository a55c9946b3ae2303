"""The operator's side of AdminService: the local socket, and what the commands ask over it."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import grpc

from edgehold.core.errors import ConfigError, TransferError
from edgehold.core.plan import Plan
from edgehold.proto.channel import Stub, client_options
from edgehold.proto.v1 import admin_pb2 as pb

T = TypeVar("T")
Part = Literal["both", "roster", "token"]

_SERVICE = pb.DESCRIPTOR.services_by_name["AdminService"]
SOCKET = "admin.sock"


def socket_address(home: Path) -> str:
    """gRPC address of the admin socket; relative when that is shorter, since socket paths end at 107 bytes."""
    path = home / SOCKET
    return f"unix:{min(str(path), os.path.relpath(path), key=len)}"


def ask(home: Path, question: Callable[[Stub], Awaitable[T]]) -> T:
    """Put a question to the server running on this home; `ConfigError` when none is."""
    if not (home / SOCKET).exists():
        raise ConfigError(f"{home}: no fl-server is running here; start one with `fl-server serve --home {home}`")

    async def go() -> T:
        async with grpc.aio.insecure_channel(socket_address(home), options=client_options()) as channel:
            try:
                return await question(Stub(channel, _SERVICE))
            except TransferError as error:
                if "UNAVAILABLE" in error.message:
                    raise ConfigError(f"{home}: the fl-server here does not answer ({error.message[:120]})") from None
                raise

    return asyncio.run(go())


async def submit(stub: Stub, plan: Plan, text: str, plan_file: Path) -> str:
    """Submit a plan and the model file it names (beside the plan unless absolute); returns the run.

    `ConfigError` at once, before anything is sent, when that file cannot be read.
    """
    first = pb.SubmitRunRequest(plan_toml=text)
    if plan.model.file is None:
        return (await stub.unary("SubmitRun", first, pb.SubmitRunResponse, None)).run
    path = plan_file.parent / plan.model.file
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(
            f"{plan_file}: model.file = {plan.model.file!r}: {path}: {error.strerror}", field="model.file"
        ) from None
    with file:
        return (await stub.collect("SubmitRun", _messages(first, file), pb.SubmitRunResponse)).run


async def _messages(first: pb.SubmitRunRequest, file: BinaryIO) -> AsyncIterator[bytes]:
    yield first.SerializeToString()
    while data := file.read(1 << 20):
        yield pb.SubmitRunRequest(model_data=data).SerializeToString()


def mint(home: Path, client: str, life_s: float, tasks: tuple[str, ...], part: Part = "both") -> str:
    """Put a client on the roster and mint its token beside the enrolment key; returns the bundle its device needs.

    part: "roster" or "token" does one half alone ("" is returned for the roster), where server and enrolment key belong to
    different users and each must do its own.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from edgehold.core.keys import Bundle, encode_bundle, fingerprint
    from edgehold.server.config import load
    from edgehold.server.identity.ca import CertificateAuthority
    from edgehold.server.identity.tokens import Tokens

    config = load(home)
    addresses = config.addresses()
    if part != "token":
        status = ask(home, lambda stub: stub.unary("GetStatus", pb.GetStatusRequest(), pb.GetStatusResponse))
        running = {"server": status.listen, "enrol": status.enrol, "renew": status.renew}
        addresses |= {key: address for key, address in running.items() if address}
        request = pb.AddClientRequest(client_id=client, allowed_plans=tasks)
        ask(home, lambda stub: stub.unary("AddClient", request, pb.AddClientResponse))
        if part == "roster":
            return ""
    authority, tokens = CertificateAuthority(config.ca_folder(home)), Tokens(config.ca_folder(home))
    try:
        token = tokens.mint(client, life_s)
    finally:
        tokens.close()
    root = authority.current().public_bytes(Encoding.DER)
    return encode_bundle(
        Bundle(
            federation=authority.federation,
            client_id=client,
            token=token,
            enrol_address=addresses["enrol"],
            renew_address=addresses["renew"],
            server_address=addresses["server"],
            root_fingerprint=fingerprint(root).hex(),
            root=root,
        )
    )
