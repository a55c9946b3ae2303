"""Masks as key streams, laid over vectors block by block, in place: memory does not grow with vectors or groups."""

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from edgehold.core.masks.terms import CipherName
from edgehold.core.vectors import Array

BLOCK_BYTES = 1 << 17
"""Of a vector at a time: with its pad it stays in a core's own cache."""
_ZEROS = bytes(BLOCK_BYTES)


class Pads:
    """Masks of one vector. plus, minus: 32-byte keys of the streams that are added and subtracted; no key is ever used again.

    Streams run in step: `lay` is called on one block after the other, from the first entry to the last.
    """

    def __init__(
        self, plus: Iterable[bytes], minus: Iterable[bytes], cipher: CipherName, dtype: np.dtype[np.unsignedinteger]
    ) -> None:
        self._plus = [_stream(key, cipher) for key in plus]
        self._minus = [_stream(key, cipher) for key in minus]
        self._bytes = np.empty(BLOCK_BYTES, np.uint8)
        self._numbers, self._dtype = self._bytes.view(dtype), dtype

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Of masked numbers."""
        return self._dtype

    def lay(self, block: Array) -> None:
        """Masks onto (or off) the next numbers, modulo their width. block: of the masks' type, at most BLOCK_BYTES long."""
        size = block.nbytes
        if block.dtype != self._numbers.dtype or size > BLOCK_BYTES:
            raise ValueError(f"a block of {size} bytes of {block.dtype}; at most {BLOCK_BYTES} of {self._numbers.dtype}")
        zeros, pad, numbers = memoryview(_ZEROS)[:size], self._bytes.data[:size], self._numbers[: len(block)]
        for stream in self._plus:
            stream.update_into(zeros, pad)
            np.add(block, numbers, out=block)
        for stream in self._minus:
            stream.update_into(zeros, pad)
            np.subtract(block, numbers, out=block)

    def __repr__(self) -> str:
        return f"<masks of {len(self._plus) + len(self._minus)} streams>"

    def __reduce__(self) -> str:
        raise TypeError("masks are not copied: a stream serves one vector; make them again from their keys")


def keystream(key: bytes, count: int) -> bytes:
    """The first bytes of a key's ChaCha20 stream: randomness that can be made again, for a key that serves nothing else."""
    return Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(count))


def _stream(key: bytes, cipher: CipherName) -> CipherContext:
    if cipher == "chacha20":
        return Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor()
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
