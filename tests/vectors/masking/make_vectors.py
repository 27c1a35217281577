"""Write the frozen vectors of masking: ``python tests/vectors/masking/make_vectors.py``.

Each vector names the step that it is for, its inputs in hex, and the output or the error code
that this step must give. The RFC vectors are typed in from their RFCs, not computed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from seeded_identities import SeededIdentities

from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.masking.binding import Binding
from medunlearn_common.masking.expansion import add_masks
from medunlearn_common.masking.keys import SessionSecrets, agree, commitment, public_of
from medunlearn_common.masking.members import Members
from medunlearn_common.masking.parts import Shares, Survivors, offer_to_bytes
from medunlearn_common.masking.shamir import split
from medunlearn_common.masking.sharing import seal_shares

FILE = Path(__file__).with_name("vectors.json")
RUN, SESSION = "vectors", "0.1"
P = (1 << 255) - 19


def members() -> tuple[Members, list[SessionSecrets]]:
    """Three sites with roots 01.., 02.., 03..."""
    identities = SeededIdentities(SeededEntropy(1))
    secrets = [SessionSecrets(root=bytes([i]) * 32) for i in (1, 2, 3)]
    offers = [
        s.offer(identities.signer(f"site-{i}"), run_id=RUN, session=SESSION, site_id=f"site-{i}")
        for i, s in enumerate(secrets)
    ]
    return Members.of(offers, run_id=RUN, session=SESSION, sites=3), secrets


def binding_of(found: Members) -> Binding:
    return Binding(members=found, participants=(0, 1, 2), release="round-0",
                   request="r" * 64, model_digest="m" * 64)


def vectors() -> list[dict[str, Any]]:
    """All vectors, passing ones first."""
    found, secrets = members()
    binding = binding_of(found)
    mask = np.zeros(4, dtype=np.uint32)
    add_masks(mask, [(bytes(range(32)), 1)])
    shares = split(bytes(range(32)), threshold=3, points=(1, 2, 3, 4, 5), seed=bytes([9]) * 32)
    sealed = seal_shares(secrets[0], found, 0)[1]
    offer = offer_to_bytes(found.offers[0])
    survivors = Survivors(payloads={0: bytes(32), 2: bytes([1]) * 32}).to_bytes()
    opened = Shares(shares={0: shares[1], 1: shares[2]}, sealed=b"").to_bytes()
    key = secrets[0].mask_private
    return [
        # RFC 7748, section 5.2 and 6.1
        {"step": "agree", "private":
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4", "public":
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c", "output":
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"},
        {"step": "agree", "private":
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb", "public":
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a", "output":
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"},
        # RFC 5869, test case 1 (HKDF-SHA256), and RFC 8439, section 2.8.2
        {"step": "hkdf", "secret": "0b" * 22, "salt": "000102030405060708090a0b0c",
         "info": "f0f1f2f3f4f5f6f7f8f9", "length": 42, "output":
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"},
        {"step": "aead", "key": bytes(range(0x80, 0xA0)).hex(),
         "nonce": "070000004041424344454647", "data": "50515253c0c1c2c3c4c5c6c7", "plain": (
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for "
            b"the future, sunscreen would be it.").hex(), "output":
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca96712"
            "82fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58"
            "fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09"
            "e26a7e902ecbd0600691"},
        {"step": "mask", "seed": bytes(range(32)).hex(), "output": mask.tobytes().hex()},
        {"step": "split", "secret": bytes(range(32)).hex(), "seed": "09" * 32, "threshold": 3,
         "output": {str(x): share.hex() for x, share in shares.items()}},
        {"step": "combine", "shares": {str(x): shares[x].hex() for x in (5, 1, 3)},
         "output": bytes(range(32)).hex()},
        {"step": "commitment", "seed": "02" * 32, "output": commitment(bytes([2]) * 32).hex()},
        {"step": "public_of", "private": key.hex(), "output": public_of(key).hex()},
        {"step": "agree", "private": key.hex(), "public": found.offers[1].mask_key.hex(),
         "output": agree(key, found.offers[1].mask_key).hex()},
        {"step": "transcript", "members": found.to_bytes().hex(),
         "output": found.transcript.hex()},
        {"step": "binding", "members": found.to_bytes().hex(), "output": binding.digest.hex()},
        {"step": "pair_seed", "members": found.to_bytes().hex(), "private": key.hex(),
         "output": binding.pair_mask_seed(key, 0, 1).hex()},
        {"step": "survivors", "members": found.to_bytes().hex(), "bytes": survivors.hex(),
         "output": "ok"},
        {"step": "open_share", "members": found.to_bytes().hex(), "root": "02" * 32,
         "sealed": sealed.hex(), "output": "ok"},
        # must fail at the step named
        *({"step": "agree", "private": key.hex(), "public": low.to_bytes(32, "little").hex(),
           "error": "MASKING_KEY_LOW_ORDER"} for low in (0, 1, P - 1, P, P + 1)),
        {"step": "transcript", "members": found.to_bytes()[:-1].hex(),
         "error": "MASKING_MESSAGE"},
        {"step": "transcript", "members": (found.to_bytes() + b"\0").hex(),
         "error": "MASKING_MESSAGE"},
        {"step": "transcript", "members": (b"\0\3" + offer * 3).hex(),
         "error": "MASKING_MESSAGE"},
        {"step": "survivors", "members": found.to_bytes().hex(), "error": "MASKING_MESSAGE",
         "bytes": (survivors[:2] + survivors[36:] + survivors[2:36]).hex()},
        {"step": "open_share", "members": found.to_bytes().hex(), "root": "03" * 32,
         "sealed": sealed.hex(), "error": "MASKING_SHARE_SEALED"},
        {"step": "open_share", "members": found.to_bytes().hex(), "root": "02" * 32,
         "sealed": (sealed[:-1] + bytes([sealed[-1] ^ 1])).hex(),
         "error": "MASKING_SHARE_SEALED"},
        {"step": "shares", "bytes": opened[:4].hex() + "ff" * 33 + opened[37:].hex(),
         "error": "MASKING_SHARE"},
    ]


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
