"""Masks: a 256-bit seed expanded to ring words and added in place.

AES-256 in counter mode, 32K words at a time into one reused buffer, so that masks of any
length need 128 KiB and stay in the processor's cache (64K words took longer). Every seed
expands to exactly one mask: it comes from HKDF over a fresh secret and everything the mask
belongs to (``binding``), hence the zero counter block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from medunlearn_common.ring import RingVector

SEED_BYTES = 32
CHUNK_WORDS = 1 << 15
_WORD_BYTES = 4
_BLOCK_BYTES = 16
_ZEROS = bytes(CHUNK_WORDS * _WORD_BYTES)


# Streams that are open at once, so that memory stays small whatever the number of masks.
_BATCH = 256


def add_masks(vector: RingVector, masks: Sequence[tuple[bytes, int]]) -> None:
    """Add or subtract masks in place, modulo 2^32, a chunk of the vector at a time.

    A chunk stays in the processor's cache while all masks are added to it.

    Args:
        vector: uint32, shape ``(k,)``, contiguous.
        masks: Seeds (32 secret bytes, each used for one mask only) and signs (1 or -1).

    Raises:
        ValueError: If a seed, a sign or the dtype is wrong; the vector is unchanged then.
    """
    if vector.dtype != np.uint32 or any(
        len(seed) != SEED_BYTES or sign not in (1, -1) for seed, sign in masks
    ):
        raise ValueError("a mask needs a 32-byte seed, a sign of 1 or -1 and uint32 words")
    for start in range(0, len(masks), _BATCH):
        _add_batch(vector, masks[start : start + _BATCH])


def _add_batch(vector: RingVector, masks: Sequence[tuple[bytes, int]]) -> None:
    buffer = bytearray(min(len(_ZEROS), vector.size * _WORD_BYTES) + _BLOCK_BYTES)
    whole = np.frombuffer(buffer, dtype="<u4", count=(len(buffer) - _BLOCK_BYTES) // _WORD_BYTES)
    streams = [
        (Cipher(algorithms.AES(seed), modes.CTR(bytes(_BLOCK_BYTES))).encryptor(),
         np.add if sign == 1 else np.subtract)
        for seed, sign in masks
    ]
    for start in range(0, vector.size, CHUNK_WORDS):
        part = vector[start : start + CHUNK_WORDS]
        zeros, words = memoryview(_ZEROS)[: part.size * _WORD_BYTES], whole[: part.size]
        for stream, combine in streams:
            stream.update_into(zeros, buffer)
            combine(part, words, out=part)
