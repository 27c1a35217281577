"""Wycheproof's files, and our own of the same form, through the functions that the product uses.

    python tests/wycheproof/run.py FOLDER    (testvectors_v1 of github.com/C2SP/wycheproof)

A case fails if its output differs, if an invalid one passes, or if one passes whose secret
everybody knows; "acceptable" ones may be refused where they are about keys of small order only.
AES in counter mode has no file there: the stream of a mask is checked by frozen vectors.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medunlearn_common.errors import Rejected
from medunlearn_common.identity.keys import verify_bytes
from medunlearn_common.masking.keys import agree, hkdf_sha256
from medunlearn_common.masking.sharing import open_text, seal_text

Case = Mapping[str, Any]


def _raw(case: Case, name: str) -> bytes:
    return bytes.fromhex(case[name])


def ed25519(group: Case, case: Case) -> bool:
    verify_bytes(_raw(group["publicKey"], "pk"), _raw(case, "msg"), _raw(case, "sig"))
    return True


def x25519(group: Case, case: Case) -> bool:
    return agree(_raw(case, "private"), _raw(case, "public")) == _raw(case, "shared")


def hkdf(group: Case, case: Case) -> bool:
    found = hkdf_sha256(
        _raw(case, "ikm"), salt=_raw(case, "salt"), info=_raw(case, "info"), length=case["size"]
    )
    return found == _raw(case, "okm")


def aead(group: Case, case: Case) -> bool:
    key, nonce, data = (_raw(case, name) for name in ("key", "iv", "aad"))
    sealed = _raw(case, "ct") + _raw(case, "tag")
    plain = open_text(key, sealed, data, nonce=nonce)
    return plain == _raw(case, "msg") and seal_text(key, plain, data, nonce=nonce) == sealed


FILES: dict[str, Callable[[Case, Case], bool]] = {
    "ed25519_test.json": ed25519,
    "x25519_test.json": x25519,
    "hkdf_sha256_test.json": hkdf,
    "chacha20_poly1305_test.json": aead,
}
# Secrets that anybody can compute: refusing them is what these cases ask for.
WEAK = {"LowOrderPublic", "ZeroSharedSecret"}


def verdict(check: Callable[[Case, Case], bool], group: Case, case: Case) -> str:
    """Empty if the case holds, else what is wrong."""
    try:
        right, passed = check(group, case), True
    except (Rejected, ValueError):
        right, passed = False, False
    if WEAK & set(case["flags"]):
        return "a weak key passed" if passed else ""
    if case["result"] == "invalid":
        return "an invalid case passed" if passed and right else ""
    if not passed:
        return "a good case was refused"
    return "" if right else "another output"


def run_file(path: Path) -> tuple[Counter[str], list[str]]:
    """Number of cases by expected result, and the failures."""
    document: Any = json.loads(path.read_bytes())
    counts, failures = Counter[str](), []
    for group in document["testGroups"]:
        for case in group["tests"]:
            counts[case["result"]] += 1
            wrong = verdict(FILES[path.name], group, case)
            if wrong:
                failures.append(f"{path.name} {case['tcId']} {case['flags']}: {wrong}")
    if sum(counts.values()) != document["numberOfTests"]:
        failures.append(f"{path.name}: {sum(counts.values())} cases, not as many as it says")
    return counts, failures


def main(folder: str) -> int:
    """Run all files; nothing to do without a folder."""
    if not folder:
        sys.stdout.write("skipped: name the folder testvectors_v1 of github.com/C2SP/wycheproof "
                         "(make wycheproof VECTORS=FOLDER)\n")
        return 0
    failures: list[str] = []
    for name in FILES:
        path = Path(folder) / name
        if not path.is_file():
            failures.append(f"{name} is missing in {folder}")
            continue
        counts, wrong = run_file(path)
        failures += wrong
        sys.stdout.write(f"{name}: {sum(counts.values())} cases "
                         f"({dict(sorted(counts.items()))}), {len(wrong)} wrong\n")
    sys.stderr.writelines(f"{line}\n" for line in failures)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
