"""The tree against RFC 6962's reference vectors, and proofs that must not pass."""

from __future__ import annotations

import pytest
from consistency_proofs import consistency_proof
from hypothesis import given, settings
from hypothesis import strategies as st

from medunlearn_common.audit import merkle
from medunlearn_common.audit.merkle import (
    inclusion_proof,
    inclusion_proofs,
    is_consistent,
    is_included,
    leaf_hash,
    root_of,
)

# The eight leaves and roots of the Certificate Transparency reference implementation.
LEAVES = [
    leaf_hash(bytes.fromhex(text)) for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
RANDOM = [leaf_hash(str(number).encode()) for number in range(70)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_rfc_6962(size: int) -> None:
    assert root_of(LEAVES[:size]).hex() == ROOTS[size]


def test_proofs_of_the_reference_tree() -> None:
    path = inclusion_proof(LEAVES, 5)
    assert [hash_.hex()[:16] for hash_ in path] == [
        "bc1a0643b12e4d2d", "ca854ea128ed050b", "d37ee418976dd957",
    ]
    grown = consistency_proof(LEAVES, 6)
    assert [hash_.hex()[:16] for hash_ in grown] == [
        "0ebc5d3437fbe2db", "ca854ea128ed050b", "d37ee418976dd957",
    ]


def test_all_proofs_at_once_are_each_leaf_s_and_cost_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for size in range(len(RANDOM) + 1):
        leaves = RANDOM[:size]
        assert inclusion_proofs(leaves) == [inclusion_proof(leaves, n) for n in range(size)]
    hashed: list[bytes] = []

    def counted(left: bytes, right: bytes) -> bytes:
        hashed.append(left)
        return left

    monkeypatch.setattr(merkle, "node_hash", counted)
    inclusion_proofs(RANDOM[:64])
    assert len(hashed) < 6 * 64  # one by one: 64 * 57


@settings(max_examples=40)
@given(size=st.integers(1, 70), data=st.data())
def test_every_proof_verifies_and_no_changed_one_does(size: int, data: st.DataObject) -> None:
    leaves, root = RANDOM[:size], root_of(RANDOM[:size])
    index, old_size = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    path = inclusion_proof(leaves, index)
    grown, old_root = consistency_proof(leaves, old_size), root_of(leaves[:old_size])

    def included(**changed: object) -> bool:
        arguments = {"index": index, "size": size, "proof": path, "root": root, **changed}
        return is_included(leaves[index], **arguments)  # type: ignore[arg-type]

    def consistent(**changed: object) -> bool:
        arguments = {"old_size": old_size, "old_root": old_root, "size": size, "root": root,
                     "proof": grown, **changed}
        return is_consistent(**arguments)  # type: ignore[arg-type]

    assert included() and consistent()
    other = leaf_hash(b"other")
    assert not included(root=other) and not included(proof=(*path, other))
    assert not consistent(root=other) and not consistent(old_root=other)
    assert not consistent(proof=(*grown, other))
    for position in range(len(path)):
        assert not included(proof=(*path[:position], other, *path[position + 1 :]))
        assert not included(proof=(*path[:position], *path[position + 1 :]))
    for position in range(len(grown)):
        assert not consistent(proof=(*grown[:position], other, *grown[position + 1 :]))
    for wrong in {0, size - 1, size // 2} - {index}:
        assert not included(index=wrong)


@settings(max_examples=40)
@given(
    index=st.integers(-2, 1 << 64), size=st.integers(-2, 1 << 64),
    proof=st.lists(st.binary(max_size=40), max_size=70),
)
def test_forged_inclusion_proof(index: int, size: int, proof: list[bytes]) -> None:
    root = root_of(RANDOM)
    assert not is_included(RANDOM[3], index=index, size=size, proof=proof, root=root)
    assert not is_consistent(
        old_size=index, old_root=RANDOM[3], size=size, root=root, proof=proof
    ) or (index == size and not proof and RANDOM[3] == root)


def test_a_node_does_not_pass_for_a_record() -> None:
    left, right = leaf_hash(b"left"), leaf_hash(b"right")
    assert leaf_hash(left + right) != root_of([left, right])
