"""The daemon's promises, against a server that misbehaves on command."""

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from edgehold.client.keep import read_status
from edgehold.core.errors import Corrupted, Draining, Duplicate, IdentityError, PeerGone, Stale
from edgehold.proto.chunks import chunk_bytes
from edgehold.proto.strict import CHUNK_LIMIT
from edgehold.proto.v1.control_pb2 import ConnectResponse, MaskTerms, Wait

if TYPE_CHECKING:
    from tests.client.conftest import Lab


async def eventually(true: Any, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.005)


def test_a_task_is_trained_uploaded_in_one_message_and_recorded(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        async with lab.client():
            lab.server.assign(lab.server.task(1000))
            await eventually(lambda: lab.states() == ["acknowledged"])
            await eventually(lambda: not lab.outbox())
            assert lab.server.upload_offsets == [0]
            assert lab.server.resumes == 0
            assert lab.keep.local("demo", 2) == (1).to_bytes(4, "little")

    lab.run(scenario)


def test_a_model_too_large_for_the_control_stream_is_downloaded_and_resumed(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.server.chunk = 1000
        lab.server.cut_download_at = 2000
        async with lab.client():
            lab.server.assign(lab.server.task(1000, inline=False))
            await eventually(lambda: lab.server.received)
            assert lab.server.download_offsets == [0, 2000]

    lab.run(scenario)


def test_an_interrupted_upload_goes_on_where_the_server_stands(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.toy.values = 1_000_000
        lab.server.cut_upload_at = 2 << 20
        async with lab.client():
            lab.server.assign(lab.server.task(1_000_000, inline=False))
            await eventually(lambda: lab.server.received)
            assert lab.server.upload_offsets == [0, 2 << 20]
            assert max(lab.server.upload_chunks) == chunk_bytes(4_000_000) < CHUNK_LIMIT
            assert lab.server.resumes == 1

    lab.run(scenario)


def test_the_client_comes_back_after_the_server_was_away(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        async with lab.client():
            for _ in range(2):
                await lab.server.stop()
                await eventually(lambda: not lab.server.connected)
                await lab.server.start()
                await eventually(lambda: lab.server.connected)
            lab.server.assign(lab.server.task(1000))
            await eventually(lambda: lab.server.received)

    lab.run(scenario)


def test_after_a_crash_the_same_bytes_are_sent_and_nothing_is_trained_again(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.server.give_receipts.clear()
        task = lab.server.task(1000)
        async with lab.client():
            lab.server.assign(task)
            await eventually(lambda: lab.server.received)
            (stored,) = lab.outbox()
        before = stored.read_bytes()
        assert lab.states() == ["trained"]
        lab.server.forget_uploads()
        lab.server.give_receipts.set()
        lab.server.owed = [task]
        async with lab.client():
            await eventually(lambda: lab.states() == ["acknowledged"])
        assert lab.server.received[-1] == before
        assert lab.toy.trained == 1
        assert lab.toy.starts == [0]

    lab.run(scenario)


def test_a_receipt_that_got_lost_is_asked_for_and_commits_the_local_state(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.server.give_receipts.clear()
        task = lab.server.task(1000)
        async with lab.client():
            lab.server.assign(task)
            await eventually(lambda: lab.server.received)
            assert lab.keep.local("demo", 2) is None
        # The server counted it, and goes on with the next round: nobody mentions round 1 again.
        lab.server.give_receipts.set()
        lab.server.owed = [lab.server.task(1000, round=2)]
        async with lab.client():
            await eventually(lambda: lab.states() == ["acknowledged", "acknowledged"])
        assert lab.toy.starts == [0, 1]

    lab.run(scenario)


def test_a_stored_update_that_rotted_is_computed_again(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.server.give_receipts.clear()
        task = lab.server.task(1000)
        async with lab.client():
            lab.server.assign(task)
            await eventually(lambda: lab.server.received)
        (stored,) = lab.outbox()
        whole = stored.read_bytes()
        stored.write_bytes(whole[:-1])
        lab.server.forget_uploads()
        lab.server.give_receipts.set()
        lab.server.owed = [task]
        async with lab.client():
            await eventually(lambda: lab.states() == ["acknowledged"])
        assert lab.toy.trained == 2
        assert lab.server.received[-1] == whole  # the order's seed makes the same update

    lab.run(scenario)


def test_local_state_moves_only_with_the_receipt_and_a_second_attempt_starts_where_the_first_did(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        async with lab.client():
            # Refused: round 1 leaves no trace.
            lab.server.upload_errors = [Stale("round closed")]
            lab.server.assign(lab.server.task(1000))
            await eventually(lambda: lab.states() == ["dropped"])
            assert lab.keep.local("demo", 1) is None
            assert not lab.outbox()
            # Attempt 2 is acknowledged, then abandoned by the server; attempt 3 starts from before the round.
            for attempt in (2, 3):
                lab.server.assign(lab.server.task(1000, attempt=attempt))
                await eventually(lambda: lab.states()[1:] == ["acknowledged"] * (attempt - 1))  # noqa: B023
            lab.server.assign(lab.server.task(1000, round=2))
            await eventually(lambda: lab.states()[3:] == ["acknowledged"])
        assert lab.toy.starts == [0, 0, 0, 1]

    lab.run(scenario)


def test_a_final_refusal_is_not_retried(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.server.upload_errors = [Duplicate("another update was admitted")]
        async with lab.client() as session:
            task = lab.server.task(1000)
            lab.server.assign(task)
            await eventually(lambda: lab.states() == ["dropped"] and not session._jobs._jobs)
            lab.server.assign(task)
            await eventually(lambda: lab.server.declines)
            assert lab.server.upload_offsets == [0]
            assert lab.toy.trained == 1

    lab.run(scenario)


def test_a_damaged_upload_begins_again_three_times_and_then_gives_up(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.server.upload_errors = [Corrupted("digest", retry_after_s=0.0) for _ in range(4)]
        async with lab.client():
            lab.server.assign(lab.server.task(1000))
            await eventually(lambda: lab.states() == ["dropped"])
            assert lab.server.upload_offsets == [0, 0, 0, 0]

    lab.run(scenario)


def test_a_busy_server_is_given_the_time_it_asks_for(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.server.upload_errors = [Draining("stopping", retry_after_s=0.5)]
        async with lab.client():
            began = time.monotonic()
            lab.server.assign(lab.server.task(1000))
            await eventually(lambda: lab.server.received)
            assert time.monotonic() - began > 0.5

    lab.run(scenario)


def test_a_task_with_a_bad_signature_is_refused(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        fields: dict[str, Any] = {
            "plan_digest": b"\1" * 32,
            "header": b"",
            "base_digest": b"\1" * 32,
            "roster_digest": b"\1" * 32,
            "schema_digest": b"\1" * 32,
            "task": "other",
            "method": "other",
        }
        async with lab.client():
            for field, value in fields.items():
                task = lab.server.task(1000)
                setattr(task, field, value)
                lab.server.assign(task)
            for field in ("run", "round", "attempt", "nonce"):
                task = lab.server.task(1000)
                setattr(task.id, field, {"run": "other", "nonce": b"\2" * 32}.get(field, 9))
                lab.server.assign(task)
            task = lab.server.task(1000)
            task.mask.CopyFrom(MaskTerms(draw_commitment=bytes(32), entries=1000, largest=1, bits=8, cipher="chacha20"))
            lab.server.assign(task)
            await eventually(lambda: len(lab.server.declines) == len(fields) + 5)
            assert {decline.code for decline in lab.server.declines} == {"bad_signature"}
            assert lab.states() == []

    lab.run(scenario)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"schema_digest": b"\1" * 32}, "wrong_shape"),
        ({"task": "unknown"}, "policy_refused"),
        ({"method": "frl"}, "policy_refused"),
        ({"federation": "elsewhere"}, "identity"),
        ({"protocol_version": 9}, "stale"),
        ({"base_length": 4001}, "wrong_shape"),
        ({"base_digest": b"\1" * 32}, "corrupted"),
        ({"deadline_s": -1.0}, "wrong_shape"),
        ({"task": "../etc"}, "wrong_shape"),
    ],
)
def test_a_signed_task_that_does_not_fit_is_declined(lab: "Lab", changes: dict[str, Any], code: str) -> None:
    async def scenario(lab: "Lab") -> None:
        async with lab.client():
            lab.server.assign(lab.server.task(1000, **changes))
            await eventually(lambda: lab.server.declines)
            assert lab.server.declines[0].code == code
            assert lab.toy.trained == 0

    lab.run(scenario)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('allowed_methods = ["frl"]', "allowed_methods"),
        ('allowed_tasks = ["other"]', "allowed_tasks"),
        ("allow_unmasked = false", "allow_unmasked"),
        ("max_payload_bytes = 3999", "max_payload_bytes"),
        ("rounds_per_day = 0", "rounds_per_day"),
        ("not a policy", "cannot be read"),
    ],
)
def test_every_line_of_the_policy_declines_and_is_read_anew_before_each_task(lab: "Lab", line: str, word: str) -> None:
    async def scenario(lab: "Lab") -> None:
        async with lab.client():
            kept = [old for old in lab.home.policy.read_text().splitlines() if old.split(" =")[0] != line.split(" =")[0]]
            lab.home.policy.write_text("\n".join([*kept, line]) + "\n")
            lab.server.assign(lab.server.task(1000))
            await eventually(lambda: lab.server.declines)
            assert lab.server.declines[0].code == "policy_refused"
            assert word in lab.server.declines[0].reason
            assert lab.toy.trained == 0

    lab.run(scenario)


def test_rounds_per_day_counts_rounds_not_attempts(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.home.policy.write_text(lab.home.policy.read_text() + "rounds_per_day = 1\n")
        async with lab.client():
            for attempt in (1, 2):
                lab.server.assign(lab.server.task(1000, attempt=attempt))
                await eventually(lambda: lab.states() == ["acknowledged"] * attempt)  # noqa: B023
            lab.server.assign(lab.server.task(1000, round=2))
            await eventually(lambda: lab.server.declines)
            assert "rounds_per_day" in lab.server.declines[0].reason

    lab.run(scenario)


def test_a_model_that_is_not_the_announced_one_is_not_used(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        async with lab.client():
            corrupt = lab.server.task(1000, inline=False)
            lab.server.blobs[corrupt.base_digest] = bytes(4000)
            lab.server.assign(corrupt)
            await eventually(lambda: len(lab.server.declines) == 1)
            long = lab.server.task(1000, round=2, inline=False)
            lab.server.blobs[long.base_digest] += b"more"
            lab.server.assign(long)
            await eventually(lambda: len(lab.server.declines) == 2)
            assert [decline.code for decline in lab.server.declines] == ["corrupted", "wrong_shape"]
            assert lab.toy.trained == 0

    lab.run(scenario)


def test_a_cancelled_task_sends_nothing_and_can_be_given_again(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.toy.go.clear()
        async with lab.client():
            task = lab.server.task(1000)
            lab.server.assign(task)
            await eventually(lambda: lab.training.busy)
            lab.server.cancel(task.id)
            await eventually(lambda: lab.states() == ["cancelled"])
            lab.toy.go.set()
            await eventually(lambda: lab.toy.trained == 1 and not lab.training.busy)
            assert not lab.outbox()
            assert not lab.server.upload_offsets
            lab.server.assign(task)
            await eventually(lambda: lab.states() == ["acknowledged"])

    lab.run(scenario)


def test_a_task_taken_back_and_given_again_at_once_is_done(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.toy.go.clear()
        async with lab.client():
            task = lab.server.task(1000)
            lab.server.assign(task)
            await eventually(lambda: lab.training.busy)
            lab.server.cancel(task.id)
            lab.server.assign(task)
            await eventually(lambda: lab.states() == ["cancelled"])
            lab.toy.go.set()
            await eventually(lambda: lab.states() == ["acknowledged"])
            assert len(lab.server.received) == 1

    lab.run(scenario)


def test_a_newer_round_takes_the_place_of_one_still_training(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.toy.go.clear()
        async with lab.client():
            lab.server.assign(lab.server.task(1000))
            await eventually(lambda: lab.training.busy)
            lab.server.assign(lab.server.task(1000, round=2))
            await eventually(lambda: lab.states()[:1] == ["cancelled"])
            lab.toy.go.set()
            await eventually(lambda: lab.states() == ["cancelled", "acknowledged"])

    lab.run(scenario)


def test_a_repeated_assignment_is_done_once(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.toy.go.clear()
        async with lab.client() as session:
            task = lab.server.task(1000)
            for _ in range(3):
                lab.server.assign(task)
            await eventually(lambda: lab.training.busy)
            lab.toy.go.set()
            await eventually(lambda: lab.states() == ["acknowledged"])
            await eventually(lambda: not session._jobs._jobs)
            lab.server.assign(task)  # counted already: the receipt answers
            await eventually(lambda: lab.server.resumes == 1)
            assert lab.toy.trained == 1
            assert len(lab.server.received) == 1

    lab.run(scenario)


def test_training_code_that_fails_is_declined_without_its_words(lab: "Lab", monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(lab: "Lab") -> None:
        def broken(self: object, *args: object) -> None:
            raise RuntimeError("patient 4711 has no scan")

        async with lab.client():
            monkeypatch.setattr(type(lab.toy.make_task()), "train", broken)
            lab.server.assign(lab.server.task(1000))
            await eventually(lambda: lab.server.declines)
            assert "RuntimeError" in lab.server.declines[0].reason
            assert "patient" not in lab.server.declines[0].reason
            assert lab.states() == ["cancelled"]

    lab.run(scenario)


def test_stopping_in_the_middle_of_training_is_quick_and_loses_nothing(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.toy.go.clear()
        task = lab.server.task(1000)
        async with lab.client():
            lab.server.assign(task)
            await eventually(lambda: lab.training.busy)
            began = time.monotonic()
        assert time.monotonic() - began < 2
        assert lab.states() == ["received"]
        lab.toy.go.set()
        lab.server.owed = [task]
        async with lab.client():
            await eventually(lambda: lab.states() == ["acknowledged"])

    lab.run(scenario)


def test_a_new_certificate_reopens_the_channel_without_losing_the_task(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.toy.go.clear()
        async with lab.client() as session:
            lab.server.assign(lab.server.task(1000))
            await eventually(lambda: lab.training.busy)
            await session.renewed(lab.credentials())
            await eventually(lambda: len(lab.server.connects) == 2 and lab.server.connected == 1)
            lab.toy.go.set()
            await eventually(lambda: lab.states() == ["acknowledged"])

    lab.run(scenario)


def test_a_server_of_another_protocol_ends_the_session_with_a_clear_word(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.server.connect_errors = [Stale("protocol", supported_versions=(7, 8))]
        with pytest.raises(Stale, match="update the client"):
            async with lab.client():
                raise AssertionError("connected")

    lab.run(scenario)


def test_other_refusals_at_the_door_are_waited_out(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.server.connect_errors = [Draining("starting", retry_after_s=0.1), PeerGone("gone")]
        async with lab.client():
            assert len(lab.server.connects) == 3

    lab.run(scenario)


def test_the_client_stays_away_as_long_as_the_server_asks(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        async with lab.client() as session:
            began = time.monotonic()
            lab.server.send(ConnectResponse(wait=Wait(seconds=0.5)))
            await eventually(lambda: session._not_before > 0)
            await lab.server.stop()
            await eventually(lambda: not lab.server.connected)
            await lab.server.start()
            await eventually(lambda: lab.server.connected)
            assert time.monotonic() - began > 0.5

    lab.run(scenario)


def test_a_server_of_another_federation_gets_nothing(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.server.welcome.federation = "elsewhere"
        lab.server.owed = [lab.server.task(1000)]
        async with lab.client(stays=False):
            await eventually(lambda: "elsewhere" in read_status(lab.home.keep).get("error", ""))
            assert lab.states() == []
            assert not lab.server.declines

    lab.run(scenario)


def test_a_revoked_client_waits_long_and_tries_again() -> None:
    from edgehold.client.transfer import REVOKED_WAIT_S, Backoff

    backoff = Backoff()
    assert backoff.after(IdentityError("revoked")) > REVOKED_WAIT_S
    waits = [backoff.after(PeerGone("gone", retry_after_s=None)) for _ in range(20)]
    assert max(waits) <= 5.0
    assert backoff.after(Draining("later", retry_after_s=1e9)) <= 3605.0
    backoff.reset()
    assert backoff.after(None) <= 0.2


def test_files_that_nothing_refers_to_are_swept(lab: "Lab") -> None:
    async def scenario(lab: "Lab") -> None:
        lab.home.outbox.mkdir()
        (lab.home.outbox / f"{hashlib.sha256(b'').hexdigest()}.update").write_bytes(b"orphan")
        (lab.home.outbox / "half.tmp").write_bytes(b"half")
        async with lab.client():
            await eventually(lambda: not lab.outbox())

    lab.run(scenario)
