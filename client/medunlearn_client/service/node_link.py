"""``state/node.json``: whether the coordinator lets this hospital's node in, as its calls showed.

Written by the node's process, read by the service, `hospital status`, `doctor` and the metrics.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from medunlearn_client.service.status import replace_file
from medunlearn_common.audit.kinds import code as is_code
from medunlearn_common.errors import Rejected, Transient

NOT_ADMITTED, UNREACHABLE = "NODE_NOT_ADMITTED", "NODE_UNREACHABLE"
_MAX_BYTES = 1 << 12


@dataclass(frozen=True, kw_only=True)
class NodeLink:
    """How the node's calls of the coordinator end.

    Attributes:
        code: Of why they fail; empty while they are answered.
        since: When that began, seconds since 1970.
        at: When the last call ended; 0 before the first.
    """

    code: str = ""
    since: float = 0.0
    at: float = 0.0

    def then(self, code: str, *, now: float) -> NodeLink:
        """After one more call."""
        changed = code != self.code or not self.at
        return NodeLink(code=code, since=now if changed else self.since, at=now)

    @property
    def trouble(self) -> Rejected | Transient | None:
        """What is wrong, and what to do; None while calls are answered."""
        if self.code == NOT_ADMITTED:
            return Rejected(
                NOT_ADMITTED, "the coordinator does not let this hospital's node in",
                "right for a minute after a restart, and until the coordinator has enrolled this "
                "hospital; else telephone it: the hospital was revoked, or has another key or clock"
            )
        if self.code:
            return Transient(
                self.code, "the coordinator does not answer this hospital's node",
                "it is tried again by itself; `medunlearn hospital doctor` looks at the way there")
        return None

    def write(self, path: Path) -> None:
        """Atomically, but not durably; raises Transient STATUS_FAILED."""
        replace_file(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """What lies at ``path``; of a file that cannot be read, that no call was made yet."""
        try:
            found: Any = json.loads(path.read_bytes()[:_MAX_BYTES])
            link = cls(code=str(found["code"]), since=float(found["since"]), at=float(found["at"]))
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return cls()
        return link if not link.code or is_code(link.code) else cls()
