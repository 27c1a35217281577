"""What a hospital says of its erasure requests in one run, and to nobody else in any other.

The root over its commitments (``erasure.commitments``) may serve several runs. What leaves is a
commitment to that root under a nonce of the run, which looks like the random bytes it is mixed
with; a hospital without requests commits to random bytes in the same way.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field
from pathlib import Path

from medunlearn_common.digests import canonical_json, digest_of
from medunlearn_common.entropy import Entropy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically

_LABEL = b"medunlearn/request-root/1"


@dataclass(frozen=True, kw_only=True)
class RunRoot:
    """A root and how it is shown in one run; what an auditor is given along with an opening.

    Attributes:
        run_id: The run.
        root: Over the commitments (hex), or random.
        nonce: 32 secret bytes of this run (hex).

    Guarantees:
        * Without the nonce, :attr:`shown` tells neither the root nor whether there is one; two
          runs of one hospital cannot be told from runs of two hospitals by it.
        * The hospital cannot show another root for it later (SHA-256 has no known collisions).
    """

    run_id: str
    root: str = field(repr=False)
    nonce: str = field(repr=False)

    @property
    def shown(self) -> str:
        """What leaves the hospital: 32 bytes (hex)."""
        message = _LABEL + canonical_json([self.run_id, self.root])
        return hmac.digest(bytes.fromhex(self.nonce), message, "sha256").hex()


def root_for_run(
    folder: Path, *, site_id: str, run_id: str, given: str | None, entropy: Entropy
) -> RunRoot:
    """The root of one run, the same at every asking, kept in the hospital's folder.

    Args:
        folder: The hospital's.
        site_id: Its name.
        run_id: The run.
        given: Root over its commitments; None where it has no requests.
        entropy: For the nonce, and for what stands for "no requests".

    Raises:
        Misconfigured: REQUEST_ROOT_DAMAGED.
        Transient: WRITE_FAILED.
    """
    path = folder / "runs" / f"{digest_of(run_id)}.requests"
    if not path.is_file():
        drawn = RunRoot(
            run_id=run_id, root=given or entropy.key(site_id, run_id, "no-requests").hex(),
            nonce=entropy.key(site_id, run_id, "request-nonce").hex(),
        )
        document = {"nonce": drawn.nonce, "root": drawn.root}
        write_atomically(path, canonical_json(document))
    try:
        kept = json.loads(path.read_bytes())
        return RunRoot(run_id=run_id, root=str(kept["root"]), nonce=bytes.fromhex(
            kept["nonce"]).hex())
    except (ValueError, KeyError, TypeError) as error:
        raise Misconfigured(
            "REQUEST_ROOT_DAMAGED", f"{path.name} does not say what was shown in this run",
            "restore it from its backup",
        ) from error
