"""Devices that read each other over mutual TLS come to the model of one process, bit for bit."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import adding
from tests.support.reading_bed import Bed, in_one_process, plan

from edgehold.attacks.testbed import eventually
from edgehold.core.crashpoints import EXIT_CODE, VARIABLE
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server.config import keys_folder, load

DEVICES = 4
VALUES = 300_000  # 1.2 MB: a letter is two chunks
ROUNDS = 4


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    adding.register()
    yield
    adding.forget()


def test_letters_by_the_server_give_the_model_of_one_process(tmp_path: Path) -> None:
    with Bed(tmp_path / "bed", VALUES) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.join(f"dev-{index}", index)
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        text = plan("relayed", ROUNDS, DEVICES)
        info = bed.run(text)
        assert info.state == "finished", info
        assert info.model_digest == in_one_process(text, DEVICES, VALUES).digest
        for index in range(DEVICES):
            log = bed.log(f"dev-{index}")
            assert log.count("letters_wanted=2 letters_had=2 letters_direct=0") == ROUNDS - 1
            assert "letter_left_out" not in log
        # After the last round nobody reads any more: neither keys nor letters are left.
        assert not list((bed.home / "spool").glob("relayed.*"))


@pytest.mark.parametrize("path", ["direct", "relay"])
def test_letters_by_their_senders_give_the_model_of_one_process(tmp_path: Path, path: str) -> None:
    """Also where the server could be asked: senders come first."""
    with Bed(tmp_path / "bed", VALUES) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.join(f"dev-{index}", index, peers={"listen": "127.0.0.1:0"})
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        text = plan("direct", ROUNDS, DEVICES, path)
        info = bed.run(text)
        assert info.state == "finished", info
        assert info.model_digest == in_one_process(text, DEVICES, VALUES).digest
        for index in range(DEVICES):
            assert bed.log(f"dev-{index}").count("letters_had=2 letters_direct=2") == ROUNDS - 1
            # A device keeps the letters of the newest two rounds, and no others.
            assert len(list((bed.folder / f"dev-{index}" / "outbox").iterdir())) == 2


def test_senders_that_do_not_listen_are_read_through_the_server(tmp_path: Path) -> None:
    with Bed(tmp_path / "bed", VALUES) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.join(f"dev-{index}", index, peers={"listen": "127.0.0.1:0"} if index % 2 else {"patience_s": 1.0})
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        text = plan("mixed", ROUNDS, DEVICES, reads=4)
        assert bed.run(text).model_digest == in_one_process(text, DEVICES, VALUES).digest
        for index in range(DEVICES):
            assert bed.log(f"dev-{index}").count("letters_had=4 letters_direct=2") == ROUNDS - 1


def test_a_stopped_run_keeps_its_letters_for_the_round_that_is_tried_again(tmp_path: Path) -> None:
    """Stopped in the middle of a round, over a restart of the server, and resumed: another attempt, the same letters."""
    with Bed(tmp_path / "bed", VALUES) as bed:
        bed.start_server()
        for index in range(3):
            bed.join(f"dev-{index}", index)
            # The last device dies before it answers in the third round, so that the round stays open.
            bed.start_client(f"dev-{index}", {VARIABLE: "letters_read:3"} if index == 2 else None)
        bed.wait_connected(3)
        text = plan("stopped", ROUNDS, 3)
        bed.submit(text)
        assert bed.clients["dev-2"].wait(30.0) == EXIT_CODE
        bed.ask(lambda stub: stub.unary("StopRun", pb.StopRunRequest(run="stopped"), pb.StopRunResponse))
        assert (bed.info("stopped").state, bed.info("stopped").rounds_done) == ("stopped", 2)
        bed.daemon.stop()
        bed.start_server()
        kept = list((bed.home / "spool" / "stopped.2.1").iterdir())
        assert len(kept) == 3
        assert [path.name for path in keys_folder(load(bed.home), bed.home).iterdir()] == ["stopped.2.1"]
        bed.start_client("dev-2")
        bed.wait_connected(3)
        bed.ask(lambda stub: stub.unary("ResumeRun", pb.ResumeRunRequest(run="stopped"), pb.ResumeRunResponse))
        eventually(lambda: bed.info("stopped").state != "running", 30.0, "the run's end")
        assert bed.info("stopped").model_digest == in_one_process(text, 3, VALUES).digest
        for index in range(3):
            assert "letter_left_out" not in bed.log(f"dev-{index}")
        assert "attempt=2" in bed.log("dev-0")
        eventually(lambda: not list((bed.home / "spool").glob("stopped.*")), 10.0, "an empty spool")


def test_an_owner_who_does_not_want_peers_to_read_takes_no_part(tmp_path: Path) -> None:
    with Bed(tmp_path / "bed", 100) as bed:
        bed.start_server()
        for index in range(3):
            bed.join(f"dev-{index}", index)
            policy = bed.folder / f"dev-{index}" / "policy.toml"
            if index == 0:
                policy.write_text(policy.read_text().replace("allow_peers = true", "allow_peers = false"))
            bed.start_client(f"dev-{index}")
        bed.wait_connected(3)
        text = plan("unwilling", 2, 3).replace("quorum = 3", "quorum = 2")
        info = bed.run(text)
        assert (info.state, info.latest.facts["clients_admitted"]) == ("finished", 2.0), info
        assert "code=policy_refused" in bed.log("dev-0")
        assert "allow_peers is false" in bed.log("dev-0")


def test_what_was_read_moves_the_model() -> None:
    """Or the comparison above would prove nothing."""
    models = {in_one_process(plan("moved", ROUNDS, DEVICES, reads=reads), DEVICES, 100).digest for reads in (0, 1, 2)}
    assert len(models) == 3
