"""A device among its peers: whose letters it reads for a task, by which way, and which of its own updates it keeps for them."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import grpc

from edgehold.client.config import ClientConfig
from edgehold.client.direct import Direct
from edgehold.client.identity import Credentials, channel
from edgehold.client.keep import Keep
from edgehold.client.letters import Expected
from edgehold.client.outbox import Outbox
from edgehold.client.peering import open_listener
from edgehold.client.policy import Policy
from edgehold.client.reading import Reading
from edgehold.client.relaying import relay
from edgehold.client.worker import Begun, Workbench
from edgehold.core.errors import RejectedUpdate
from edgehold.core.logs import event, peer_text
from edgehold.proto.channel import Stub
from edgehold.proto.v1.control_pb2 import TaskAssignment

log = logging.getLogger("edgehold.client.peers")

Decode: TypeAlias = Callable[[Mapping[str, bytes]], Awaitable[dict[str, RejectedUpdate]]]
"""Reads letters by the method's law, in the training thread; returns why some of them break it."""


class Peers:
    """who: identity and mailbox in force now (renewal replaces them); policy: the owner's word now."""

    def __init__(
        self,
        config: ClientConfig,
        keep: Keep,
        outbox: Outbox,
        who: Callable[[], tuple[Credentials, Stub]],
        policy: Callable[[], Policy],
    ) -> None:
        self._config, self._keep, self._outbox, self._who, self._policy = config, keep, outbox, who, policy
        self._listener: grpc.aio.Server | None = None

    async def listen(self) -> str:
        """Open the listener for peers, where the owner wants one; returns its address, "" for none."""
        table = self._config.peers
        if table is None or table.listen is None:
            return ""
        self._listener, address = await open_listener(table, self._keep, self._outbox, lambda: self._who()[0], self._policy)
        return address

    async def close(self) -> None:
        """Close the listener."""
        if self._listener is not None:
            await self._listener.stop(None)

    def kept(self) -> set[bytes]:
        """Digests of counted updates that peers may still ask this device for. Blocks on the disk."""
        if self._config.peers is None or self._config.peers.listen is None:
            return set()
        found = self._keep.letters()
        methods = {entry.key: TaskAssignment.FromString(entry.assignment).method for entry in found}
        return {entry.parcel.digest for entry in found if Workbench.needs(methods[entry.key]).peers}

    async def read(self, begun: Begun, decode: Decode) -> None:
        """Get the letters that the method wants, as far as they can be had. They stay in memory: a device that dies before its
        update is stored reads them again.
        """
        assignment, chosen, stall_s = begun.assignment, begun.chosen, self._config.transfer.stall_s
        reading = Reading(assignment.id, self._expected(begun), self._keep)
        direct = 0
        if chosen and self._config.peers is not None:
            shown = TaskAssignment()
            shown.CopyFrom(assignment)
            shown.ClearField("inline_body")
            way = Direct(reading, self._mailbox, self._dial, shown, self._config.peers.patience_s)
            relayed = await way.read(chosen)
            direct = len(reading.had)
            if relayed:
                await relay(reading, self._mailbox, reading.missing(chosen), stall_s)
        else:
            await relay(reading, self._mailbox, chosen, stall_s)
        for sender, error in (await decode(reading.had)).items():
            reading.leave_out(sender, error)
        event(
            log, logging.INFO, "letters_read", letters_wanted=len(chosen), letters_had=len(begun.sent), letters_direct=direct,
            run=peer_text(assignment.id.run), round=assignment.id.round, attempt=assignment.id.attempt,
        )  # fmt: skip

    def _expected(self, begun: Begun) -> Expected:
        assignment = begun.assignment
        return Expected(
            assignment.federation, assignment.plan_digest, assignment.id.run, assignment.id.round - 1, begun.codec.kind,
            begun.codec.body_bytes(begun.task.schema), self._policy().max_payload_bytes, begun.listing,
            self._who()[0].roots_pem,
        )  # fmt: skip

    def _mailbox(self) -> Stub:
        return self._who()[1]

    def _dial(self, address: str, peer: str) -> grpc.aio.Channel:
        return channel(self._who()[0], address, peer)
