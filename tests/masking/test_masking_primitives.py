"""Frozen vectors, Shamir's field, and the parsers of masking."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from medunlearn_common.errors import MedunlearnError, Misconfigured, Rejected
from medunlearn_common.masking.binding import Binding
from medunlearn_common.masking.expansion import CHUNK_WORDS, add_masks
from medunlearn_common.masking.graph import neighbour_lists
from medunlearn_common.masking.keys import SessionSecrets, agree, commitment, public_of
from medunlearn_common.masking.parameters import require_plan
from medunlearn_common.masking.parts import (
    Agreement,
    Delivery,
    Opening,
    Shares,
    Survivors,
    read_members,
    read_offer,
    read_sealed,
)
from medunlearn_common.masking.shamir import PRIME, Weights, check_share, split
from medunlearn_common.masking.sharing import open_share

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "masking"
VECTORS: list[dict[str, Any]] = json.loads((FOLDER / "vectors.json").read_text())


def run_vector(vector: dict[str, Any]) -> Any:
    """What the named step makes of a vector's inputs."""
    raw = {k: bytes.fromhex(v) for k, v in vector.items()
           if isinstance(v, str) and k not in ("step", "output", "error")}
    members = None
    if "members" in raw:
        members = read_members(raw["members"], run_id="vectors", session="0.1")
    binding = members and Binding(members=members, participants=(0, 1, 2), release="round-0",
                                  request="r" * 64, model_digest="m" * 64)
    match vector["step"]:
        case "agree":
            return agree(raw["private"], raw["public"])
        case "hkdf":
            return HKDF(algorithm=SHA256(), length=vector["length"], salt=raw["salt"],
                        info=raw["info"]).derive(raw["secret"])
        case "aead":
            return ChaCha20Poly1305(raw["key"]).encrypt(raw["nonce"], raw["plain"], raw["data"])
        case "mask":
            words = np.zeros(4, dtype=np.uint32)
            add_masks(words, [(raw["seed"], 1)])
            return words.tobytes()
        case "split":
            found = split(raw["secret"], threshold=3, points=(1, 2, 3, 4, 5), seed=raw["seed"])
            return {str(x): share.hex() for x, share in found.items()}
        case "combine":
            shares = {int(x): bytes.fromhex(s) for x, s in vector["shares"].items()}
            return Weights.of(list(shares)).combine(shares)
        case "commitment":
            return commitment(raw["seed"])
        case "public_of":
            return public_of(raw["private"])
        case "transcript":
            assert members is not None
            return members.transcript
        case "binding":
            assert binding is not None
            return binding.digest
        case "pair_seed":
            assert binding is not None
            return binding.pair_mask_seed(raw["private"], 0, 1)
        case "survivors":
            Survivors.from_bytes(raw["bytes"])
        case "shares":
            Shares.from_bytes(raw["bytes"])
        case "open_share":
            assert members is not None
            open_share(SessionSecrets(root=raw["root"]), members, sender=0, recipient=1,
                       sealed=raw["sealed"])
        case other:
            raise AssertionError(other)
    return "ok"


@pytest.mark.parametrize(
    "vector", VECTORS, ids=[f"{i}-{v['step']}" for i, v in enumerate(VECTORS)]
)
def test_frozen_vector(vector: dict[str, Any]) -> None:
    if "error" in vector:
        with pytest.raises(Rejected) as caught:
            run_vector(vector)
        assert caught.value.code == vector["error"]
        return
    found = run_vector(vector)
    assert (found.hex() if isinstance(found, bytes) else found) == vector["output"]


def test_the_script_still_makes_these_vectors() -> None:
    spec = importlib.util.spec_from_file_location("make_vectors", FOLDER / "make_vectors.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.vectors() == VECTORS
    assert len(VECTORS) >= 12 and sum("error" in v for v in VECTORS) >= 4


def test_the_field_is_a_field() -> None:
    for base in (2, 3, 5, 7, 11, 13):
        assert pow(base, PRIME - 1, PRIME) == 1
    assert all(pow(3, n - 1, n) != 1 for n in range(2**256 + 1, PRIME, 2))  # the smallest one


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(0, 6), st.binary(min_size=32, max_size=32),
       st.randoms(use_true_random=False))
def test_any_t_shares_give_the_secret_and_fewer_give_another(
    threshold: int, extra: int, secret: bytes, random: Any
) -> None:
    points = random.sample(range(1, 2000), threshold + extra)
    shares = split(secret, threshold=threshold, points=points, seed=os.urandom(32))
    chosen = random.sample(points, threshold)
    assert Weights.of(chosen).combine(shares) == secret
    if threshold > 1:
        assert Weights.of(chosen[:-1]).combine(shares) != secret


@pytest.mark.parametrize("size", [1, CHUNK_WORDS - 1, CHUNK_WORDS, CHUNK_WORDS + 1, 200_001])
def test_masks_cancel_at_every_length_and_are_one_stream(size: int) -> None:
    vector = np.arange(size, dtype=np.uint32)
    add_masks(vector, [(b"k" * 32, 1)])
    longer = np.arange(size + 7, dtype=np.uint32)
    add_masks(longer, [(b"k" * 32, 1)])
    assert vector.tolist() == longer[:size].tolist()
    add_masks(vector, [(b"k" * 32, -1)])
    assert vector.tolist() == list(range(size))


def test_every_site_of_the_graph_has_k_neighbours_and_it_is_symmetric() -> None:
    lists = neighbour_lists(301, 40, b"s" * 32)
    for site, others in enumerate(lists):
        assert len(others) == 40 and site not in others
        assert all(site in lists[other] for other in others)
    assert lists != neighbour_lists(301, 40, b"t" * 32)


@pytest.mark.parametrize("sites", [1, 2])
def test_plans_too_small_to_mask_are_refused(sites: int) -> None:
    with pytest.raises(Misconfigured, match="MASKING_TOO_FEW_SITES"):
        require_plan(sites)


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_parsers_refuse_with_a_code_or_read_what_they_would_write(data: bytes) -> None:
    for parse in (
        Delivery.from_bytes, Survivors.from_bytes, Agreement.from_bytes, Opening.from_bytes,
        Shares.from_bytes, read_sealed, read_offer, check_share,
        lambda d: read_members(d, run_id="r", session="s"),
    ):
        try:
            found = parse(data)
        except MedunlearnError as error:
            assert error.code.startswith("MASKING_")
            continue
        if hasattr(found, "to_bytes"):
            assert found.to_bytes() == data
