"""Devices that read each other over mutual TLS come to the model of one process, bit for bit."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import adding
from tests.support.reading_bed import Bed, in_one_process, plan

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
            assert log.count("letters_wanted=2 letters_had=2") == ROUNDS - 1
            assert "letter_left_out" not in log
        # After the last round nobody reads any more: neither keys nor letters are left.
        assert not list((bed.home / "spool").glob("relayed.*"))


def test_what_was_read_moves_the_model() -> None:
    """Or the comparison above would prove nothing."""
    models = {in_one_process(plan("moved", ROUNDS, DEVICES, reads=reads), DEVICES, 100).digest for reads in (0, 1, 2)}
    assert len(models) == 3
