"""What two people compare by telephone: 128 bits as eight words that can be spoken.

The words are proquints (Wilkerson, arXiv:0901.4016): sixteen bits each, consonants and vowels in
turn, so that no list of words has to be the same at both ends.
"""

from __future__ import annotations

import hashlib
import hmac

from medunlearn_common.errors import Misconfigured

_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"
_SHAPE = (("c", 12), ("v", 10), ("c", 6), ("v", 4), ("c", 0))
FINGERPRINT_BYTES = 16
_WORD_CHARACTERS = len(_SHAPE)


def fingerprint(purpose: str, data: bytes) -> str:
    """Eight words over ``data``, separated by hyphens.

    Args:
        purpose: What is compared; the words of one thing never equal those of another.
        data: All bytes that matter.

    Guarantees:
        Finding other data with the same words takes about 2¹²⁸ tries.
    """
    digest = hashlib.sha256(purpose.encode("utf-8") + b"\x00" + data).digest()
    short = digest[:FINGERPRINT_BYTES]
    return "-".join(_word(int.from_bytes(short[i : i + 2], "big")) for i in range(0, len(short), 2))


def same_fingerprint(told: str, here: str) -> bool:
    """Whether a person's words are those; case, spaces and hyphens do not matter.

    Raises:
        Misconfigured: FINGERPRINT_FORM if ``told`` is no whole fingerprint: fewer words would be
            a weaker comparison without anybody noticing.
    """
    letters = "".join(character for character in told.lower() if character.isalpha())
    expected = here.replace("-", "")
    if len(letters) != len(expected):
        raise Misconfigured(
            "FINGERPRINT_FORM", f"a fingerprint has {len(expected) // _WORD_CHARACTERS} words of "
            f"{_WORD_CHARACTERS} letters", "ask for all of them; type them with spaces or hyphens",
        )
    return hmac.compare_digest(letters.encode("utf-8"), expected.encode("utf-8"))


def _word(value: int) -> str:
    return "".join(
        _CONSONANTS[(value >> shift) & 15] if kind == "c" else _VOWELS[(value >> shift) & 3]
        for kind, shift in _SHAPE
    )
