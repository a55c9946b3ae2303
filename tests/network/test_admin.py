"""Who may administer a server, and over what."""

import asyncio
import stat
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest
from grpc import StatusCode
from tests.support import wire
from tests.support.wire import Answer, call, dial

from edgehold.attacks.testbed import Federation
from edgehold.client.identity import Credentials
from edgehold.core import keys
from edgehold.proto.v1 import admin_pb2, control_pb2, transfer_pb2
from edgehold.server.desk.operator import SOCKET

ADMIN = [method.name for method in admin_pb2.DESCRIPTOR.services_by_name["AdminService"].methods]
CLIENTS_ONLY = [
    f"{service.name}/{method.name}"
    for service in (
        control_pb2.DESCRIPTOR.services_by_name["ControlService"],
        transfer_pb2.DESCRIPTOR.services_by_name["TransferService"],
    )
    for method in service.methods
]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A server and one client."""
    with Federation(tmp_path_factory.mktemp("bed")) as bed:
        bed.start_server()

        async def enrol() -> None:
            async with wire.operator(bed.home) as stub:
                await wire.enrolled(stub, bed.home, "dev", bed.folder / "dev" / "identity")

        asyncio.run(enrol())
        yield bed


def ask(bed: Federation, credentials: Credentials, method: str, message: bytes = b"") -> Answer:
    """One call over mutual TLS to the listener that carries rounds."""

    async def go() -> Answer:
        async with dial(bed.addresses["server"], credentials) as channel:
            return await call(channel, method, message)

    return asyncio.run(go())


def operator(bed: Federation) -> Credentials:
    """The operator's keys as `fl-server init` leaves them."""
    found = keys.load_version(bed.home / "operator", ["tls.key"], ["tls.pem", "roots.pem"])
    like = wire.load(bed.folder / "dev")
    return replace(like, key_pem=found["tls.key"], chain_pem=found["tls.pem"], roots_pem=found["roots.pem"])


def refused(bed: Federation) -> int:
    """Refusals for reasons of identity so far."""

    async def go() -> int:
        async with wire.operator(bed.home) as stub:
            return (await wire.status(stub)).rejections["identity"]

    return asyncio.run(go())


def test_the_list_of_methods_is_the_one_in_the_proto() -> None:
    assert {"Shutdown", "SetClientState", "SubmitRun", "GetModel"} <= set(ADMIN)
    assert {"ControlService/Connect", "TransferService/Upload"} <= set(CLIENTS_ONLY)


@pytest.mark.parametrize("method", ADMIN)
def test_a_client_can_administer_nothing(bed: Federation, method: str) -> None:
    before = refused(bed)
    answer = ask(bed, wire.load(bed.folder / "dev"), f"AdminService/{method}")
    assert (answer.status, answer.code) == (StatusCode.PERMISSION_DENIED, "identity")
    assert answer.replies == ()
    assert refused(bed) == before + answer.tries
    assert bed.daemon.alive


@pytest.mark.parametrize("method", CLIENTS_ONLY)
def test_an_operator_is_no_client(bed: Federation, method: str) -> None:
    answer = ask(bed, operator(bed), method)
    assert (answer.status, answer.code) == (StatusCode.PERMISSION_DENIED, "identity")


def test_an_operator_certificate_administers(bed: Federation) -> None:
    answer = ask(bed, operator(bed), "AdminService/GetStatus")
    assert answer.status is StatusCode.OK
    assert admin_pb2.GetStatusResponse.FromString(answer.replies[0]).clients_active == 1
    add = admin_pb2.AddClientRequest(client_id="new").SerializeToString()
    assert ask(bed, operator(bed), "AdminService/AddClient", add).status is StatusCode.OK
    listed = admin_pb2.ListClientsResponse.FromString(ask(bed, operator(bed), "AdminService/ListClients").replies[0])
    assert [client.client_id for client in listed.clients] == ["dev", "new"]
    revoke = admin_pb2.SetClientStateRequest(client_id="new", state="revoked").SerializeToString()
    assert ask(bed, operator(bed), "AdminService/SetClientState", revoke).status is StatusCode.OK


def test_an_operator_is_held_to_the_same_decoding(bed: Federation) -> None:
    answer = ask(bed, operator(bed), "AdminService/StopRun", b"\x7a\x01x")
    assert (answer.status, answer.code) == (StatusCode.INVALID_ARGUMENT, "wrong_shape")


def test_nobody_without_a_certificate_administers(bed: Federation) -> None:
    before = refused(bed)
    nobody = replace(wire.load(bed.folder / "dev"), key_pem=None, chain_pem=None)  # type: ignore[arg-type]
    for method in ADMIN:
        assert ask(bed, nobody, f"AdminService/{method}").status is StatusCode.UNAVAILABLE
    assert refused(bed) == before


def test_the_listeners_that_carry_rounds_refuse_plain_text(bed: Federation) -> None:
    async def go(address: str) -> Answer:
        async with grpc.aio.insecure_channel(address, options=wire.UNBOUND) as channel:
            return await call(channel, "AdminService/GetStatus", b"")

    for listener in ("server", "enrol", "renew"):
        assert asyncio.run(go(bed.addresses[listener])).status is StatusCode.UNAVAILABLE


def test_the_local_socket_is_for_its_owner_alone(bed: Federation) -> None:
    socket = (bed.home / SOCKET).stat()
    assert stat.S_ISSOCK(socket.st_mode)
    assert stat.S_IMODE(socket.st_mode) == 0o600
    assert stat.S_IMODE(bed.home.stat().st_mode) == 0o700


def test_a_server_whose_folder_others_can_enter_does_not_start(
    bed: Federation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Federation(tmp_path_factory.mktemp("open")) as other:
        other.home.chmod(0o750)
        with pytest.raises(RuntimeError, match="chmod 700"):
            other.start_server()
        assert other.daemon.wait() == 1
