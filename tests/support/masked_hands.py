"""Devices by hand in a masked sum: the real machine, real mutual TLS, and every message for the test to bend."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import Message
from tests.support import inprocess, wire
from tests.support.inprocess import Place
from tests.support.masked import Memory
from tests.support.wire import WAIT_S, Answer, Device, call

from edgehold.core import keys
from edgehold.core.contract import Container, Payload
from edgehold.core.masks.client import MaskClient
from edgehold.core.masks.messages import Survivors
from edgehold.core.masks.upload import KIND
from edgehold.core.vectors import Array, Bytes
from edgehold.proto.masks import advert_to, boxes_from, boxes_to, reveal_to, roster_from, survivors_from
from edgehold.proto.terms import terms_of
from edgehold.proto.v1.masks_pb2 import (
    AdvertiseRequest,
    AdvertiseResponse,
    RevealRequest,
    RevealResponse,
    ShareRequest,
    ShareResponse,
    SurvivorsRequest,
    SurvivorsResponse,
)

M = TypeVar("M", bound=Message)


@dataclass
class Hand:
    """One device. streams: what the server is still to say to it, by step."""

    device: Device
    vector: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    streams: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    @property
    def name(self) -> str:
        return self.device.name

    def begin(self) -> None:
        """Step 1, of the task that the device was given."""
        mine, task = self.device.credentials, self.device.assignment
        self.terms = terms_of(task)
        self.machine = MaskClient.advertise(
            self.terms, self.name, certificate=x509.load_pem_x509_certificate(mine.chain_pem).public_bytes(Encoding.DER),
            signing_key=keys.public_bytes(mine.signing_key), sign=mine.signing_key.sign,
            roots=x509.load_pem_x509_certificates(mine.roots_pem), server_key=mine.server_signing_key.public_bytes_raw(),
            journal=Memory(),
        )  # fmt: skip

    def advertise(self) -> AdvertiseRequest:
        return AdvertiseRequest(task=self.device.assignment.id, advert=advert_to(self.machine.advert))

    def share(self) -> ShareRequest:
        return ShareRequest(task=self.device.assignment.id, boxes=boxes_to(self.machine.share_again()))

    def reveal(self) -> RevealRequest:
        return reveal_to(self.machine.reveal(self.survivors), RevealRequest(task=self.device.assignment.id))

    def mask(self) -> bytes:
        """The masked vector as it travels; `vector` under its masks."""
        body = b"".join(bytes(block) for block in self.machine.mask([self.vector]))
        return Container.prefix(Payload(b"", Bytes(b""))) + body

    async def ask(self, request: Message) -> Answer:
        """A call made to its end: for requests that are refused."""
        method = request.DESCRIPTOR.name.removesuffix("Request")
        return await call(self.device.channel, f"MaskService/{method}", request.SerializeToString())

    async def send(self, request: Message, reply: type[M]) -> M:
        """A call begun: its first answer, a receipt where the server keeps to itself what the step is to bring."""
        method = request.DESCRIPTOR.name.removesuffix("Request")
        invoke: Any = self.device.channel.unary_stream(wire.METHODS[f"MaskService/{method}"])
        self.streams[method] = invoke(request.SerializeToString())
        return await self.heard(method, reply)

    async def heard(self, method: str, reply: type[M]) -> M:
        """The next answer on a step's stream."""
        data = await asyncio.wait_for(self.streams[method].read(), WAIT_S)
        assert isinstance(data, bytes), await self.streams[method].details()
        return reply.FromString(data)

    async def until(self, method: str, reply: type[M], there: Callable[[M], bool]) -> M:
        """What the step brings in the end."""
        while not there(found := await self.heard(method, reply)):
            pass
        return found

    async def roster(self) -> None:
        """Step 2: the group, accepted."""
        import time

        found = await self.until("Advertise", AdvertiseResponse, lambda one: one.HasField("roster"))
        self.machine.share(roster_from(found.roster, self.terms), time.time())

    async def boxes(self) -> None:
        """What the others sealed, accepted."""
        found = await self.until("Share", ShareResponse, lambda one: one.HasField("boxes"))
        self.machine.receive(boxes_from(found.boxes.boxes))

    async def upload(self) -> Answer:
        """Step 3."""
        self.payload = self.payload or self.mask()
        return await self.device.upload(self.payload, payload_kind=KIND)

    async def asked(self) -> Survivors:
        """Step 4: the set."""
        first = await self.send(SurvivorsRequest(task=self.device.assignment.id), SurvivorsResponse)
        there = first if first.HasField("set") else None
        found = there or await self.until("Survivors", SurvivorsResponse, lambda one: one.HasField("set"))
        self.survivors = survivors_from(found.set)
        return self.survivors

    async def revealed(self) -> None:
        """Step 5."""
        await self.send(self.reveal(), RevealResponse)


@asynccontextmanager
async def meeting(folder: Path, clients: int, values: int) -> AsyncIterator[tuple[Place, list[Hand]]]:
    """A server in this process, and so many connected devices."""
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(inprocess.server(folder / "server", values=values))
        hands = []
        for index in range(clients):
            device = await stack.enter_async_context(await place.device(f"dev-{index}"))
            await device.connect()
            hands.append(Hand(device))
        yield place, hands
