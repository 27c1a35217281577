"""The keys of a simulated run: one machine plays all parties, so it makes all their keys.

They come from the plan's seed, so that runs repeat; they protect nothing, and the attestation of
a simulated run says so. At a hospital the same files hold a key of its own and the consortium's
roster.
"""

from __future__ import annotations

from medunlearn_common.audit import COORDINATOR
from medunlearn_common.audit.local_keys import BOOK_FILE, KeyBook, local_signer
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.files import write_atomically
from medunlearn_common.plan import Plan
from medunlearn_simulation.run_folder import RunFolder


def prepare_parties(plan: Plan, folder: RunFolder) -> None:
    """Keys for coordinator and sites, and the roster of them all in every party's folder.

    Raises:
        Transient: WRITE_FAILED.
    """
    entropy = SeededEntropy(plan.run.seed)
    places = {COORDINATOR: folder.root} | {
        f"site-{index}": folder.site(index) for index in range(plan.federation.sites)
    }
    signers = [local_signer(place, party, entropy) for party, place in places.items()]
    book = KeyBook(keys={signer.party_id: signer.public_key for signer in signers})
    for place in places.values():
        write_atomically(place / BOOK_FILE, book.to_bytes(), private=False)
