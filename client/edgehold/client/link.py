"""The connection to the server: a channel and the stubs on it."""

import grpc

from edgehold.client.relaying import SERVICE as MAILBOX
from edgehold.client.transfer import SERVICE as TRANSFER
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import control_pb2, masks_pb2

MASKS = masks_pb2.DESCRIPTOR.services_by_name["MaskService"]
CONTROL = control_pb2.DESCRIPTOR.services_by_name["ControlService"]


class Link:
    """A channel and its stubs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.control = Stub(channel, CONTROL)
        self.transfer = Stub(channel, TRANSFER)
        self.mailbox = Stub(channel, MAILBOX)
        self.masks = Stub(channel, MASKS)
