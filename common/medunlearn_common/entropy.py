"""Where randomness that must stay secret comes from: injected, never a global generator.

torch's and numpy's default generators are not cryptographic. Noise and sampling are drawn
from a ChaCha20 keystream; only the key differs between a hospital (operating system) and a
simulation (seed), so that both run the same code.
"""

from __future__ import annotations

import hashlib
import os
from typing import Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

KEY_BYTES = 32


class Entropy(Protocol):
    """Gives one 256-bit key per draw."""

    def key(self, *purpose: str | int) -> bytes:
        """A key for ``purpose``, which names site, run, round and use."""
        ...


class OsEntropy:
    """Fresh keys from the operating system: what every hospital uses."""

    def key(self, *purpose: str | int) -> bytes:
        """32 fresh bytes; ``purpose`` has no influence."""
        return os.urandom(KEY_BYTES)


class SeededEntropy:
    """Keys derived from a seed, for simulation only.

    Guarantees:
        None towards anybody who knows the seed: noise can be recomputed and removed. It
        exists so that experiments and the tests of resumption repeat bit for bit.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __repr__(self) -> str:
        return "SeededEntropy(seed=<redacted>)"

    def key(self, *purpose: str | int) -> bytes:
        """SHA-256 of the seed and the length-prefixed parts of ``purpose``."""
        digest = hashlib.sha256(b"medunlearn/entropy/1")
        for part in (self._seed, *purpose):
            encoded = repr(part).encode("utf-8")
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return digest.digest()


class KeyStream:
    """Uniform 64-bit words from ChaCha20 under one key, never reused."""

    def __init__(self, key: bytes) -> None:
        cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None)
        self._encryptor = cipher.encryptor()

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """The next ``count`` uniform words, shape ``(count,)``."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype="<u8")

    def uniforms(self, count: int) -> npt.NDArray[np.float64]:
        """The next ``count`` uniform reals in [0, 1) with 53 random bits, shape ``(count,)``."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def public_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator for *public* choices (frozen A, shuffles), named by purpose."""
    key = int.from_bytes(SeededEntropy(seed).key("public", *purpose)[:16], "big")
    return np.random.Generator(np.random.Philox(key=key))
