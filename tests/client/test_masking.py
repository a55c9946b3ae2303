"""What a device keeps of a masked sum, for how long, and what its noise is charged as."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.support.masked import names, terms

from edgehold.client.keep import Keep, TaskKey
from edgehold.client.masking import Masking
from edgehold.client.outbox import Outbox, Parcel
from edgehold.client.shelf import Shelf
from edgehold.core.errors import Stale
from edgehold.core.masks.noise import SharedNoise
from edgehold.core.masks.upload import KIND
from edgehold.core.plan import MasksTable
from edgehold.proto.v1.control_pb2 import TaskAssignment

KEY = TaskKey("run", 1, 1, bytes(32))
PLAIN, MASKED = Parcel(b"p" * 32, 10, "fedavg/1"), Parcel(b"m" * 32, 10, KIND)


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    found = Keep(tmp_path / "keep.db")
    found.receive(KEY, b"", 10)
    return found


def test_secrets_do_not_come_back_after_their_task_is_over(keep: Keep) -> None:
    """The thread that stores them is not called off with the task."""
    with pytest.raises(Stale):
        keep.mask(KEY, b"before anything was trained")
    keep.trained(KEY, PLAIN, b"")
    keep.mask(KEY, b"state")
    assert keep.masked(KEY) == (b"state", None)
    keep.cancel(KEY)
    with pytest.raises(Stale):
        keep.mask(KEY, b"late", MASKED)
    assert keep.masked(KEY) is None
    keep.close()


def test_the_masked_vector_stays_known_after_the_reveal(keep: Keep) -> None:
    """Or its file would stay in the outbox for good: what is let go of is what the keep knows."""
    keep.trained(KEY, PLAIN, b"")
    keep.mask(KEY, b"delivered")
    keep.mask(KEY, b"masked", MASKED)
    keep.acknowledge(KEY)
    keep.mask(KEY, b"revealed")
    assert keep.masked(KEY) == (b"revealed", MASKED)
    assert keep.masked_digests() == {MASKED.digest}
    keep.unmask(KEY)
    assert keep.masked(KEY) is None
    assert keep.unrevealed() == []
    keep.close()


def masking(tmp_path: Path, keep: Any, **more: Any) -> Masking:
    who: Any = None
    given: dict[str, Any] = {"training": None, "bench": None, "accounts": None} | more
    outbox = Outbox(tmp_path / "outbox")
    return Masking(keep, outbox, Shelf(keep, outbox, set), who, stall_s=1.0, **given)


def test_a_vector_masked_for_a_task_that_is_over_leaves_no_file(tmp_path: Path, keep: Keep) -> None:
    how = terms(names(9))
    keep.trained(KEY, PLAIN, b"")
    keep.cancel(KEY)
    bench = SimpleNamespace(vector=lambda assignment, sent, terms: iter([np.zeros(how.entries, np.int64)]))
    machine = SimpleNamespace(members=names(9), dump=lambda: b"state", mask=lambda vector: iter([np.zeros(37, np.uint8)]))
    one = masking(tmp_path, keep, bench=bench)
    path = tmp_path / "outbox" / f"{PLAIN.digest.hex()}.update"
    path.write_bytes(b"plain")
    given: Any = machine
    with pytest.raises(Stale):
        one._masked(KEY, assignment(how), given, PLAIN)
    assert list((tmp_path / "outbox").iterdir()) == [path]
    keep.close()


def assignment(how: Any) -> TaskAssignment:
    from edgehold.proto.terms import said_of
    from edgehold.proto.v1.control_pb2 import TaskId

    return TaskAssignment(
        id=TaskId(run=how.run, round=how.round, attempt=how.attempt, nonce=how.nonce), federation=how.federation,
        plan_digest=how.plan_digest, base_digest=how.base_digest, mask=said_of(how),
    )  # fmt: skip


def test_what_is_charged_covers_the_vector_as_it_lies_on_the_grid(tmp_path: Path) -> None:
    """Scaled to the norm first and rounded to the grid then, a vector could be longer than its norm. Here 400 entries of 0.6
    steps would become 1 each, length 20 instead of 12, if they were rounded to the nearest.
    """
    from edgehold.core.masks.sizing import sized
    from edgehold.defenses.baselines.fedavg.masked import ChangeForm

    entries = 400
    table = MasksTable(norm=1.0, noise_multiplier=2.0, bits=16, group_least=8, group_most=16)
    size = sized(table, entries, 0)
    how = terms(
        names(9), entries=entries, largest=size.largest, bits=size.bits, margin=size.margin, least=8, most=16, clip=size.clip,
        norm=0.6 * np.sqrt(entries) * size.clip / (size.largest // 2), variance=size.variance,
    )  # fmt: skip
    assert not how.fault()
    delta = np.full(entries, 0.6 * how.grid.step, np.float64)
    change: Any = SimpleNamespace(
        delta=SimpleNamespace(size=entries, read=lambda start, stop: delta[start:stop], whole=lambda: delta)
    )
    lying = np.concatenate(list(ChangeForm(how).vector(change))) - how.largest // 2
    charged: list[Any] = []

    def charge(task: Any, released: Any) -> bool:
        charged.extend(released)
        return True

    noise = SharedNoise.of(how)
    assert noise is not None
    one = masking(tmp_path, None, accounts=SimpleNamespace(charge=charge))
    drawn = one._noised(assignment(how), noise, how, 9, iter([np.zeros(entries, np.int64)]))
    assert len(charged) == 1, "charged before any noise is drawn"
    assert pytest.approx(charged[0].sensitivity) == 12.0
    assert 8.0 < np.linalg.norm(lying) <= charged[0].sensitivity
    assert charged[0].absolute >= np.abs(lying).sum()
    assert np.concatenate(list(drawn)).any()
