"""Named streams are Philox under a digest of their names, whatever way its key is handed over."""

import copy
import hashlib
import pickle

import numpy as np
import pytest

from edgehold.core.rng import stream


def test_a_stream_is_philox_under_the_digest_of_its_names() -> None:
    labels = b"".join(len(part).to_bytes(4, "little") + part for part in (b"int:7", b"str:client", b"int:-3"))
    key = np.frombuffer(hashlib.sha256(labels).digest()[:16], dtype="<u8").astype(np.uint64)
    expected = np.random.Generator(np.random.Philox(key=key))
    found = stream(7, "client", -3)
    assert str(found.bit_generator.state) == str(expected.bit_generator.state)
    assert found.bytes(100) == expected.bytes(100)
    assert found.standard_normal(9).tobytes() == expected.standard_normal(9).tobytes()


def test_names_are_apart_and_a_stream_goes_on_where_it_was_copied() -> None:
    assert len({stream(1, *names).bytes(8) for names in (("a", "b"), ("ab",), ("a", 1), ("a", "1"), ())}) == 5
    one = stream(1, "a")
    one.bytes(3)
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):  # noqa: S301  (made two lines above)
        assert other.bytes(40) == copy.deepcopy(one).bytes(40)


def test_children_of_a_stream_are_refused() -> None:
    """Names make streams here; a child would depend on how many there were before."""
    with pytest.raises((TypeError, AttributeError)):
        stream(1, "a").spawn(1)
