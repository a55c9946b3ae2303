"""What of masked sums is fuzzed: every decoder, every step of the machines on what was decoded, and what lies on disks."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from google.protobuf.message import Message
from tests.support.masked import (
    NOW_S,
    SERVER,
    SERVER_KEY,
    VALUE,
    Memory,
    advertised,
    expected,
    lawful,
    names,
    revealed,
    roots,
    settled,
    shared,
    uploaded,
)

from edgehold.core.contract import Container, Payload
from edgehold.core.masks.client import MaskClient
from edgehold.core.masks.client_state import ClientState
from edgehold.core.masks.draw import Entrant
from edgehold.core.masks.gathering import Gathering
from edgehold.core.masks.group import MaskGroup
from edgehold.core.masks.upload import MaskedUploads
from edgehold.core.vectors import Bytes, Schema, Tensor
from edgehold.proto.masks import (
    advert_from,
    advert_to,
    boxes_from,
    boxes_to,
    reveal_from,
    reveal_to,
    roster_from,
    roster_to,
    survivors_from,
    survivors_to,
)
from edgehold.proto.strict import MESSAGE_LIMIT, decode
from edgehold.proto.terms import said_of, terms_of
from edgehold.proto.v1.control_pb2 import TaskAssignment, TaskId
from edgehold.proto.v1.masks_pb2 import MaskAdvert, MaskBoxes, MaskRoster, MaskSurvivors, RevealRequest, ShareRequest

Case = tuple[str, list[bytes], Callable[[bytes], object]]
M = TypeVar("M", bound=Message)

COUNT, ME, GONE = 9, "device-004", "device-008"


def read(kind: type[M], data: bytes) -> M:
    """As whoever is told it does."""
    return decode(kind, data, MESSAGE_LIMIT)


def cases() -> list[Case]:
    """Name, inputs that are taken, what is fuzzed."""
    played, before = advertised(COUNT), {}
    me, terms, who = played.clients[ME], played.terms, names(COUNT)
    gathering = Gathering(terms, VALUE, [Entrant(one) for one in who])
    for one in who:
        if one != ME:
            gathering.add(played.clients[one].advert, roots(), NOW_S)
    before["gathering"], before["advertised"] = gathering.dump(), me.dump()
    before["group"] = MaskGroup(played.group.roster).dump()
    roster = roster_to(played.group.roster).SerializeToString()
    shared(played)
    held = boxes_to(played.group.boxes_for(ME))
    sent = ShareRequest(boxes=boxes_to(me.share_again())).SerializeToString()
    before["collect"] = played.group.dump()
    again = MaskClient.restore(before["advertised"], roots=roots(), server_key=SERVER_KEY, journal=Memory())
    again.share(played.group.roster, NOW_S)
    before["shared"] = again.dump()
    uploaded(played, silent=[GONE])
    before["masked"] = me.dump()
    found = played.group.freeze(SERVER.sign)
    before["frozen"] = played.group.dump()
    answer = reveal_to(me.reveal(found), RevealRequest()).SerializeToString()
    others = [played.clients[one].reveal(found) for one in found.clients if one != ME]
    revealed(played)
    total = expected(played)
    assert np.array_equal(np.concatenate(list(settled(played).blocks())), total)
    task = TaskAssignment(
        id=TaskId(run=terms.run, round=3, attempt=1, nonce=terms.nonce), federation=terms.federation,
        plan_digest=terms.plan_digest, base_digest=terms.base_digest, mask=said_of(terms),
    )  # fmt: skip
    masked = MaskedUploads(terms)
    whole = Container.prefix(Payload(b"", Bytes(b""))) + bytes(played.uploads[ME].read(0, terms.payload_bytes))

    def machine(state: str) -> MaskClient:
        return MaskClient.restore(before[state], roots=roots(), server_key=SERVER_KEY, journal=Memory())

    def terms_(data: bytes) -> object:
        said = terms_of(read(TaskAssignment, data))
        return said.transcript, said.fault(), said.payload_bytes

    def share(data: bytes) -> object:
        return machine("advertised").share(roster_from(read(MaskRoster, data), terms), NOW_S)

    def reveal(data: bytes) -> object:
        return machine("masked").reveal(survivors_from(read(MaskSurvivors, data)))

    def add(data: bytes) -> object:
        return Gathering.restore(before["gathering"]).add(advert_from(read(MaskAdvert, data)), roots(), NOW_S)

    def take(data: bytes) -> object:
        """With one answer of eight in the server's hands that is whatever it is: the sum, the very one, or none."""
        group = MaskGroup.restore(before["frozen"])
        group.reveal(reveal_from(read(RevealRequest, data), ME))
        for one in others:
            group.reveal(one)
        if not np.array_equal(np.concatenate(list(group.settle(played.uploads, lawful).blocks())), total):
            raise AssertionError("another sum")
        return group.suspects

    def upload(data: bytes) -> object:
        body = masked.decode_update(Container.split(Bytes(data)), Schema((Tensor("values", (terms.entries,)),)))
        MaskGroup.restore(before["collect"]).upload(ME, bytes(32), body.size)
        return body

    return [
        ("mask terms", [task.SerializeToString()], terms_),
        ("mask roster", [roster], lambda data: roster_from(read(MaskRoster, data), terms).digest),
        ("mask advert", [advert_to(me.advert).SerializeToString()], lambda data: advert_from(read(MaskAdvert, data)).digest),
        ("mask survivors", [survivors_to(found).SerializeToString()], lambda data: survivors_from(read(MaskSurvivors, data))),
        ("mask reveal", [answer], lambda data: reveal_from(read(RevealRequest, data), ME)),
        ("mask boxes", [MaskBoxes(boxes=held).SerializeToString()], lambda data: boxes_from(read(MaskBoxes, data).boxes)),
        ("mask device shares", [roster], share),
        (
            "mask device receives", [MaskBoxes(boxes=held).SerializeToString()],
            lambda data: machine("shared").receive(boxes_from(read(MaskBoxes, data).boxes)),
        ),
        ("mask device reveals", [survivors_to(found).SerializeToString()], reveal),
        ("mask server takes keys", [advert_to(me.advert).SerializeToString()], add),
        (
            "mask server takes shares", [sent],
            lambda data: MaskGroup.restore(before["group"]).share(ME, boxes_from(read(ShareRequest, data).boxes)),
        ),
        ("mask server takes reveals", [answer], take),
        ("mask server takes masked vectors", [whole], upload),
        ("mask state of a device", [before["advertised"], before["shared"], before["masked"]], ClientState.load),
        ("mask state of a group", [before["group"], before["collect"], before["frozen"]], MaskGroup.restore),
        ("mask state of keys", [before["gathering"]], Gathering.restore),
    ]  # fmt: skip
