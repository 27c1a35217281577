"""Cost of masked sums, in CPU time of one core, beside the primitives of Flower's SecAgg+.

    python benchmarks/masking.py            # 30 sites and the bytes on the wire
    python benchmarks/masking.py --large    # 1,000 sites with neighbours as well

Times are ``time.process_time`` of this process (best of three where short); set
OMP_NUM_THREADS=1. Exactness is asserted in every case that has plaintext to compare with.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medunlearn_client.masking.site import add_own_masks
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.masking.binding import Binding
from medunlearn_common.masking.expansion import add_masks
from medunlearn_common.masking.keys import SessionSecrets
from medunlearn_common.masking.members import Members
from medunlearn_common.masking.shamir import Weights, split
from medunlearn_common.masking.sharing import SharePair, share_out
from medunlearn_server.masking.opening import open_sum
from medunlearn_server.masking.session import Collecting, Session

WORDS = 1_000_000


def cpu_ms(action: Callable[[], object], repeats: int = 3) -> float:
    """Best CPU time of ``repeats`` runs, in ms."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        action()
        best = min(best, time.process_time() - start)
    return 1e3 * best


def federation(count: int) -> tuple[Binding, list[SessionSecrets]]:
    """Keys of ``count`` sites and an attempt in which all of them mask."""
    entropy = SeededEntropy(1)
    names = [f"site-{index:04d}" for index in range(count)]
    secrets = [SessionSecrets(root=SeededEntropy(2).key(name)) for name in names]
    members = Members.of([
        s.offer(SigningIdentity.generate(n, entropy), run_id="bench", session="0.1", site_id=n)
        for s, n in zip(secrets, names, strict=True)
    ], run_id="bench", session="0.1", sites=count)
    binding = Binding(members=members, participants=tuple(range(count)), release="round-0",
                      request="r" * 64, model_digest="m" * 64)
    return binding, secrets


def reveals(
    binding: Binding, secrets: Sequence[SessionSecrets], dropped: set[int]
) -> dict[str, dict[int, bytes]]:
    """What survivors say at the opening."""
    members = binding.members
    given: dict[str, dict[int, bytes]] = {
        n: {} for p, n in enumerate(members.names) if p not in dropped
    }
    for owner, secret in enumerate(secrets):
        shares: dict[int, SharePair] = share_out(secret, members, owner)
        for holder, pair in shares.items():
            if holder not in dropped:
                share = pair.mask_key if owner in dropped else pair.self_seed
                given[members.names[holder]][owner] = share
    return given


def thirty_sites() -> None:
    """30 sites x 1e6 words, 3 dropped, exact sum."""
    binding, secrets = federation(30)
    session = Session(members=binding.members, sealed={p: {} for p in range(30)})
    generator, dropped = np.random.default_rng(0), {3, 11, 28}
    plain = [generator.integers(0, 2**32, WORDS, dtype=np.uint32) for _ in range(30)]
    collecting = Collecting(session, binding, least=3)
    for position, vector in enumerate(plain):
        if position not in dropped:
            masked = vector.copy()
            add_own_masks(masked, binding, secrets[position], position)
            collecting.add(binding.members.names[position], masked)
    scratch = plain[0].copy()
    hospital = cpu_ms(lambda: add_own_masks(scratch, binding, secrets[0], 0), 5)
    given, cut = reveals(binding, secrets, dropped), collecting.cut()
    found: list[np.ndarray] = []
    coordinator = cpu_ms(lambda: found.append(open_sum(cut, given)[0]), 5)
    expected = sum(plain[p].astype(np.int64) for p in range(30) if p not in dropped) % 2**32
    if not np.array_equal(found[-1], expected.astype(np.uint32)):
        raise SystemExit("the sum is wrong")
    vector = np.ones(WORDS, dtype=np.uint32)
    total = np.zeros(WORDS, dtype=np.uint32)
    adding = 27 * cpu_ms(lambda: np.add(total, vector, out=total))
    print(f"30 sites x 1e6, 3 dropped, exact: hospital {hospital:.0f} ms, coordinator "
          f"{coordinator:.0f} ms to unmask + {adding:.0f} ms to add 27 vectors")
    flower_thirty()


def flower_thirty() -> None:
    """The same work with the primitives of Flower's SecAgg+ (int64, 2^22 range, as it ships)."""
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    seed = bytes(range(32))

    def expand(count: int) -> float:
        total = np.zeros(WORDS, dtype=np.int64)

        def run() -> None:
            for _ in range(3):
                np.add(total, pseudo_rand_gen(seed, 1 << 22, [(WORDS,)])[0], out=total)

        return count / 3 * cpu_ms(run)

    print(f"  Flower SecAgg+ primitives: hospital {expand(30):.0f} ms, "
          f"coordinator {expand(27 + 3 * 27):.0f} ms (per mask x count)")


def sharing() -> None:
    """Shamir at n = 100."""
    points = list(range(1, 101))
    made = split(bytes(32), threshold=67, points=points, seed=bytes(32))
    splitting = cpu_ms(
        lambda: split(bytes(32), threshold=67, points=points, seed=bytes(32)), 5
    )
    combining = cpu_ms(lambda: Weights.of(points[:67]).combine(made), 5)
    print(f"Shamir, n = 100, t = 67: split {splitting:.1f} ms, combine {combining:.1f} ms")


def thousand_sites() -> None:
    """1,000 sites x 1e6 words with neighbours, 50 dropped."""
    start = time.process_time()
    binding, secrets = federation(1000)
    binding.members.neighbours(0)
    setup = time.process_time() - start
    shape = binding.members.shape
    dropped = set(range(0, 1000, 20))
    session = Session(members=binding.members, sealed={p: {} for p in range(1000)})
    vector = np.zeros(WORDS, dtype=np.uint32)
    hospital = cpu_ms(lambda: add_own_masks(vector, binding, secrets[1], 1))
    collecting = Collecting(session, binding, least=3)
    start = time.process_time()
    for position, name in enumerate(binding.members.names):
        if position not in dropped:
            collecting.add(name, vector)
    adding = time.process_time() - start
    given, cut = reveals(binding, secrets, dropped), collecting.cut()
    start = time.process_time()
    open_sum(cut, given)
    opening = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"1,000 sites x 1e6, 50 dropped, {shape.neighbours} neighbours, t = "
          f"{shape.threshold}: hospital {hospital:.0f} ms, coordinator {adding:.1f} s to add and "
          f"hash + {opening:.1f} s to unmask, one core; peak {peak:.0f} MB; keys {setup:.1f} s")


def on_the_wire() -> None:
    """MedHE's setting: 66 M parameters, 5 sites, 0.1 % support."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "masking"))
    from masking_bench import Bench  # type: ignore[import-not-found]

    bench = Bench(count=5, words=66_000)
    cpu = 0.0
    for round_index in range(3):
        bench.draw(round_index)
        first, start = len(bench.seen), time.process_time()
        if bench.sum(round_index) is None:
            raise SystemExit("a round was given up")
        cpu = time.process_time() - start
    steady = bench.seen[first:]
    vectors = 5 * 4 * bench.words
    whole = sum(r.size_bytes + a.size_bytes for _, r, a in steady)
    print(f"66 M parameters, 5 sites, 0.1 %: {whole / 1e6:.2f} MB per masked sum in all, of which "
          f"{(whole - vectors) / 1e3:.1f} kB are the protocol's ({(whole - vectors) / 5e3:.1f} kB "
          f"a site); all five sites and the coordinator {1e3 * cpu:.0f} ms")
    bench.close()


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--large", action="store_true")
    large = parser.parse_args().large
    add_masks(np.zeros(WORDS, dtype=np.uint32), [(bytes(32), 1)])  # warm up
    sharing()
    thirty_sites()
    on_the_wire()
    if large:
        thousand_sites()


if __name__ == "__main__":
    main()
