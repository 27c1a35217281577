"""Masks: a 256-bit seed expanded to ring words and added in place.

AES-256 in counter mode, 64K words at a time into one reused buffer, so that a mask of any
length needs 256 KiB. Every seed expands to exactly one mask: it comes from HKDF over a
fresh secret and everything the mask belongs to (``binding``), hence the zero counter block.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from medunlearn_common.ring import RingVector

SEED_BYTES = 32
CHUNK_WORDS = 1 << 16
_WORD_BYTES = 4
_BLOCK_BYTES = 16
_ZEROS = bytes(CHUNK_WORDS * _WORD_BYTES)


def add_mask(vector: RingVector, seed: bytes, *, sign: int) -> None:
    """Add (``sign`` 1) or subtract (-1) the mask of ``seed`` in place, modulo 2^32.

    Args:
        vector: uint32, shape ``(k,)``, contiguous.
        seed: 32 secret bytes, used for one mask only.
        sign: 1 or -1.

    Raises:
        ValueError: If seed, sign or dtype is wrong.
    """
    if len(seed) != SEED_BYTES or sign not in (1, -1) or vector.dtype != np.uint32:
        raise ValueError("a mask needs a 32-byte seed, a sign of 1 or -1 and uint32 words")
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(_BLOCK_BYTES))).encryptor()
    buffer = bytearray(min(len(_ZEROS), vector.size * _WORD_BYTES) + _BLOCK_BYTES)
    combine = np.add if sign == 1 else np.subtract
    for start in range(0, vector.size, CHUNK_WORDS):
        part = vector[start : start + CHUNK_WORDS]
        wanted = part.size * _WORD_BYTES
        stream.update_into(memoryview(_ZEROS)[:wanted], buffer)
        words = np.frombuffer(buffer, dtype="<u4", count=part.size)
        combine(part, words, out=part)
