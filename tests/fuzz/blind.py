"""Inputs made by damaging whole ones at random, with nothing to say which way leads further.

The test suite uses it for its minute, the command where Atheris is missing, and Atheris itself
for the large edits that libFuzzer does not make: other tokens, repeated and moved pieces.
"""

from __future__ import annotations

import random
import time

from attempts import Attempts, Tally

TOKENS = (
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"|", b"\t", b"\n", b"\r\n", b"<", b">", b"&a;", b"<!--",
    b"]]>", b"{", b"}", b"[", b"]", b'"', b"\\ud800", b"\\u0000", b"\x1f\x8b", b"\xc2\x85",
    b"\xe2\x80\xa8", b"9" * 5000, b"1e999", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"[" * 3000,
    b"NaN", b"-0", b"null", b"true", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"=cmd()", b"'",
    b";", b",", b"0", b"-1", b"C04", b"Patient/", b"#REF!", b"../", b"\xed\xa0\x80", b"''" * 99,
    b"\x1b" + b"\xff" * 8, b"\x5b" + b"\xff" * 8, b"Infinity",
)
_MAX_EDITS = 6


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with one to six edits; mostly one, after which XML may still be XML."""
    for _ in range(min(_MAX_EDITS, 1 + int(chance.expovariate(1)))):
        size = len(content)
        start = chance.randint(0, size)
        end = min(size, start + int(chance.expovariate(1 / 12)))
        piece = content[start:end]
        match chance.randrange(8):
            case 0:
                content = content[:start] + content[end:]
            case 1:
                content = content[:start] + chance.choice(TOKENS) + content[start:]
            case 2:
                content = content[:start] + chance.choice(TOKENS) + content[end:]
            case 3:
                content = content[:start] + piece * chance.randint(2, 5) + content[end:]
            case 4 if size:
                place = min(start, size - 1)
                flipped = content[place] ^ (1 << chance.randrange(8))
                content = content[:place] + bytes([flipped]) + content[place + 1 :]
            case 5:
                other = chance.randint(0, size)
                content = content[:other] + piece + content[other:]
            case 6:
                content = content[:start] + chance.randbytes(len(piece)) + content[end:]
            case _:
                content = content[:start] if chance.random() < 0.3 else content
    return content


def fuzz(attempts: Attempts, *, seconds: float, seed: int) -> Tally:
    """Attempts the whole inputs, then damaged ones until the processor time is spent.

    The same seed damages the same way.
    """
    chance = random.Random(f"{attempts.name}/{seed}")
    attempts.warm_up()
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        attempts.attempt(damaged(chance.choice(attempts.target.seeds), chance))
    return attempts.tally
