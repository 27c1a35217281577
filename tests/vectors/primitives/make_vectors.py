"""Makes the edge cases of the primitives, in Wycheproof's form; they are frozen beside this file.

Expected outputs come from the RFCs' pseudo-code written out below, not from the library that
is tested. Run from the checkout: python tests/vectors/primitives/make_vectors.py
"""

from __future__ import annotations

import hmac
import json
from hashlib import sha256, sha512
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

FOLDER = Path(__file__).resolve().parent
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]


class Cases:
    """One file in the making."""

    def __init__(self) -> None:
        self.groups: list[dict[str, Any]] = []
        self.count = 0

    def add(self, comment: str, result: str, *flags: str, group: dict[str, Any] | None = None,
            **values: Any) -> None:
        shown = {name: v.hex() if isinstance(v, bytes) else v for name, v in values.items()}
        given = group or {}
        if not self.groups or {**self.groups[-1], "tests": 0} != {**given, "tests": 0}:
            self.groups.append({**given, "tests": []})
        self.count += 1
        self.groups[-1]["tests"].append({
            "tcId": self.count, "comment": comment, "flags": list(flags), **shown,
            "result": result,
        })

    def document(self) -> dict[str, Any]:
        return {"numberOfTests": self.count, "testGroups": self.groups}


# -- Ed25519, RFC 8032 -----------------------------------------------------------------------


def add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    k = D * x1 * x2 * y1 * y2 % P
    return ((x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P,
            (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P)


def times(scalar: int, point: Point) -> Point:
    found = (0, 1)
    while scalar:
        if scalar & 1:
            found = add(found, point)
        point, scalar = add(point, point), scalar >> 1
    return found


def x_of(y: int, sign: int) -> int:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return P - x if x & 1 != sign and x else x


BASE_Y = 4 * pow(5, -1, P) % P
BASE = (x_of(BASE_Y, 0), BASE_Y)


def encoded(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


SEED = bytes(range(32))
_HASH = sha512(SEED).digest()
SCALAR = number(_HASH[:32]) & ~7 & (2**254 - 1) | 2**254
KEY = encoded(times(SCALAR, BASE))


def signature(message: bytes, *, r_bytes: bytes | None = None) -> bytes:
    """A signature; with another encoding of R hashed and sent, if one is given."""
    r = number(sha512(_HASH[32:] + message).digest()) % L
    shown = r_bytes or encoded(times(r, BASE))
    k = number(sha512(shown + KEY + message).digest()) % L
    return shown + ((r + k * SCALAR) % L).to_bytes(32, "little")


def ed25519() -> dict[str, Any]:
    cases, message = Cases(), b"sum of round 3"
    own = {"publicKey": {"pk": KEY.hex()}}
    good = signature(message)
    r, s = good[:32], number(good[32:])

    def case(comment: str, sig: bytes, *, msg: bytes = message, result: str = "invalid") -> None:
        cases.add(comment, result, group=own, msg=msg, sig=sig)

    case("a signature", good, result="valid")
    case("of the empty message", signature(b""), msg=b"", result="valid")
    case("of another message", good, msg=message + b"\0")
    for factor in (1, 2, 4, 8):
        case(f"S + {factor} L", r + (s + factor * L).to_bytes(32, "little"))
    for bit in (253, 254, 255):
        case(f"bit {bit} of S", r + (s ^ 1 << bit).to_bytes(32, "little"))
    case("S = 0", r + bytes(32))
    case("S = L", r + L.to_bytes(32, "little"))
    case("R and S swapped", good[32:] + r)
    case("sign of R", r[:31] + bytes([r[31] ^ 0x80]) + good[32:])
    case("R with y >= p, hashed so", signature(message, r_bytes=(P + 1).to_bytes(32, "little")))
    case("R = 1, hashed so", signature(message, r_bytes=(1).to_bytes(32, "little")))
    for cut in (0, 1, 32, 63):
        case(f"cut to {cut} bytes", good[:cut])
    case("one byte more", good + b"\0")
    case("all zeros", bytes(64))
    small = {encoded(p) for p in small_order_points()}
    small |= {(P + y).to_bytes(32, "little") for y in (0, 1)}
    small |= {bytes([*k[:31], k[31] ^ 0x80]) for k in small}
    for key in sorted(small):  # S = 0 and R = A fit many messages under such a "key"
        for shown in (key, (1).to_bytes(32, "little")):
            cases.add("a key of small order", "invalid", group={"publicKey": {"pk": key.hex()}},
                      msg=message, sig=shown + bytes(32))
    for pk in (KEY[:31], KEY + b"\0", b"", (P + 3).to_bytes(32, "little"),
               (2).to_bytes(32, "little")):
        cases.add("no key", "invalid", group={"publicKey": {"pk": pk.hex()}},
                  msg=message, sig=good)
    return cases.document()


def small_order_points() -> list[Point]:
    """All eight: multiples of a point of order 8, found by clearing the large factor."""
    y = 2
    while True:
        point = (x_of(y, 0), y)
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        if (point[0] * point[0] - square) % P == 0:
            eighth = times(L, point)
            if times(4, eighth) != (0, 1):
                return [times(n, eighth) for n in range(8)]
        y += 1


# -- X25519, RFC 7748 ------------------------------------------------------------------------


def ladder(private: bytes, public: bytes) -> bytes:
    k = number(private) & ~7 & (2**254 - 1) | 2**254
    u = number(public) & (2**255 - 1)
    x1, x2, z2, x3, z3, swap = u, 1, 0, u, 1, 0
    for t in range(254, -1, -1):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        e = aa - bb
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def x25519() -> dict[str, Any]:
    cases, private = Cases(), sha256(b"private").digest()
    # u of the points of small order: those of Edwards y by u = (1 + y) / (1 - y), and of infinity.
    low = {(1 + y) * pow(1 - y, -1, P) % P for _, y in small_order_points() if y != 1}
    low |= {number(bytes(32)), 1, P - 1}
    twist_low = {u + P for u in low if u + P < 2**255} | low
    for u in sorted(twist_low):
        for top in (0, 1):
            public = (u | top << 255).to_bytes(32, "little")
            shared = ladder(private, public)
            flags = ("LowOrderPublic",) if shared == bytes(32) else ()
            cases.add("small order" + ", bit 255" * top, "acceptable", *flags,
                      private=private, public=public, shared=shared)
    fine = [9, 2, 5, 2**254, P - 2, P + 9, 2**255 - 1, number(sha256(b"public").digest())]
    for u in fine:
        for top in (0, 1):
            public = (u & (2**255 - 1) | top << 255).to_bytes(32, "little")
            cases.add("not canonical" if u & (2**255 - 1) >= P or top else "a key", "valid",
                      private=private, public=public, shared=ladder(private, public))
    for length in (0, 31, 33, 64):
        cases.add("wrong length", "invalid", private=private, public=b"\x09" * length,
                  shared=bytes(32))
    for private in (bytes(32), b"\xff" * 32, b"\x07" + bytes(31)):
        public = (9).to_bytes(32, "little")
        cases.add("clamped", "valid", private=private, public=public,
                  shared=ladder(private, public))
    return cases.document()


# -- HKDF, RFC 5869 --------------------------------------------------------------------------


def expanded(ikm: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    key = hmac.digest(salt or bytes(32), ikm, "sha256")
    found, block = b"", b""
    for counter in range(1, -(-size // 32) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        found += block
    return found[:size]


def hkdf() -> dict[str, Any]:
    cases, ikm = Cases(), sha256(b"secret").digest()
    for salt in (b"", bytes(32), b"salt", b"s" * 65):
        for info in (b"", b"purpose", bytes(200)):
            for size in (1, 31, 32, 33):
                cases.add("", "valid", ikm=ikm, salt=salt, info=info, size=size,
                          okm=expanded(ikm, salt, info, size))
    cases.add("no secret", "valid", ikm=b"", salt=b"", info=b"", size=32,
              okm=expanded(b"", b"", b"", 32))
    cases.add("longest", "valid", ikm=ikm, salt=b"", info=b"", size=255 * 32,
              okm=expanded(ikm, b"", b"", 255 * 32))
    cases.add("too long", "invalid", ikm=ikm, salt=b"", info=b"", size=255 * 32 + 1, okm=b"")
    return cases.document()


# -- ChaCha20-Poly1305, RFC 8439 -------------------------------------------------------------


def aead() -> dict[str, Any]:
    cases, key, nonce = Cases(), sha256(b"key").digest(), bytes(12)
    data, plain = b"transcript", bytes(range(66))
    sealed = ChaCha20Poly1305(key).encrypt(nonce, plain, data)
    text, tag = sealed[:-16], sealed[-16:]

    def case(comment: str, result: str = "invalid", **changed: bytes) -> None:
        values = {"key": key, "iv": nonce, "aad": data, "msg": plain, "ct": text, "tag": tag}
        cases.add(comment, result, **{**values, **changed})

    case("a share", "valid")
    empty = ChaCha20Poly1305(key).encrypt(nonce, b"", b"")
    case("nothing", "valid", msg=b"", aad=b"", ct=b"", tag=empty)
    for length in (0, 1, 4, 8, 12, 15):
        case(f"tag cut to {length} bytes", tag=tag[:length])
    case("tag longer", tag=tag + b"\0")
    for bit in (0, 1, 7, 31, 63, 64, 71, 127):
        flipped = (number(tag) ^ 1 << bit).to_bytes(16, "little")
        case(f"bit {bit} of the tag", tag=flipped)
    case("tag of zeros", tag=bytes(16))
    case("tag complemented", tag=bytes(b ^ 0xFF for b in tag))
    for position in (0, 32, 33, 65):
        changed = bytes(b ^ (i == position) for i, b in enumerate(text))
        case(f"byte {position} of the text", ct=changed)
    case("text cut", ct=text[:-1])
    case("nothing sealed", ct=b"", tag=b"")
    for other in (b"", data[:-1], data + b"\0", data[::-1]):
        case("other data", aad=other)
    case("other key", key=sha256(b"other").digest())
    case("other nonce", iv=bytes(11) + b"\1")
    for length in (0, 8, 11, 13, 16, 24):
        case(f"nonce of {length} bytes", iv=bytes(length))
    for length in (0, 16, 31, 33):
        case(f"key of {length} bytes", key=key[:1] * length)
    return cases.document()


def files() -> dict[str, dict[str, Any]]:
    """Name to document."""
    return {"ed25519_test.json": ed25519(), "x25519_test.json": x25519(),
            "hkdf_sha256_test.json": hkdf(), "chacha20_poly1305_test.json": aead()}


if __name__ == "__main__":
    for name, document in files().items():
        (FOLDER / name).write_text(json.dumps(document, indent=1) + "\n")
