"""Verify an answer before anything of it is used: kind, round, digests, exact length.

Steps, for every answer: (1) no failure of the transport, no ERROR; (2) the kind asked for;
(3) the digests and the round of the request; (4) the exact number of bytes. Only then does
it become a typed value. What fails becomes :class:`Rejected` with a stable code, and the
site counts as absent from this exchange.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from medunlearn_common.errors import Rejected
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.masking.parts import SESSION
from medunlearn_common.messages import ERROR, EVALUATE, READY, STEP, VOTE, Message
from medunlearn_common.support import Support
from medunlearn_common.updates import SparseUpdate
from medunlearn_server.transport import Reply, SiteFailure

_CODE = re.compile(r"[A-Z][A-Z0-9_]{2,63}")
_SITE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HINT = "use the same medunlearn version at every site"


@dataclass(frozen=True, kw_only=True)
class ReadyAnswer:
    """What a site has. Never how many records: that is private."""

    site_id: str
    layout: AdapterLayout
    model_digest: str
    tokenizer_digest: str
    hierarchy_digest: str
    package_version: str
    request_root: str | None = None


def failure_code(code: str) -> str:
    """A site's code if it looks like one, else SITE_ERROR: nothing else may be logged."""
    return code if _CODE.fullmatch(code) else "SITE_ERROR"


def site_of(reply: Reply) -> str:
    """Whose reply it is: by its envelope, or as the transport knows; empty if nobody knows."""
    site = reply.site if isinstance(reply, SiteFailure) else str(reply.fields.get("site_id", ""))
    return site if _SITE_ID.fullmatch(site) else ""


def code_of(reply: Reply) -> str:
    """Of a refusal or failure; empty for an answer."""
    if isinstance(reply, SiteFailure):
        return failure_code(reply.code)
    return failure_code(str(reply.fields.get("code", ""))) if reply.kind == ERROR else ""


def verify_ready(reply: Reply) -> ReadyAnswer:
    """Check a READY answer, including that its layout hashes to the digest it names.

    Raises:
        Rejected: With the site's own code, or MESSAGE_KIND, MESSAGE_FIELD, SITE_NAME,
            LAYOUT_TEXT or LAYOUT_MISMATCH.
    """
    message = _answer(reply, READY)
    site_id = message.text("site_id")
    if not _SITE_ID.fullmatch(site_id):
        raise Rejected("SITE_NAME", "a site's id is not a short plain name",
                       "use letters, digits, dots, dashes and underscores only")
    layout = AdapterLayout.from_json(message.text("layout"))
    if layout.digest != message.text("layout_digest"):
        raise Rejected("LAYOUT_MISMATCH", f"the layout of {site_id} has another digest", _HINT)
    return ReadyAnswer(
        site_id=site_id,
        layout=layout,
        model_digest=message.text("model_digest"),
        tokenizer_digest=message.text("tokenizer_digest"),
        hierarchy_digest=message.text("hierarchy_digest"),
        package_version=message.text("package_version"),
        request_root=_request_root(message),
    )


def _request_root(message: Message) -> str | None:
    """Root over commitments to the site's erasure requests; None from an older version."""
    if "request_root" not in message.fields:
        return None
    root = message.text("request_root")
    if not _DIGEST.fullmatch(root):
        raise Rejected("MESSAGE_FIELD", "a root over requests is no SHA-256", _HINT)
    return root


def verify_vote(reply: Reply, *, length: int, layout: AdapterLayout) -> SparseUpdate:
    """Check an answer to a vote: ``length`` ring words over the layout.

    Raises:
        Rejected: With the site's own code, or MESSAGE_KIND, LAYOUT_MISMATCH, UPDATE_LENGTH.
    """
    message = _answer(reply, VOTE)
    _same(message, "layout_digest", layout.digest, "LAYOUT_MISMATCH")
    return SparseUpdate.from_bytes(
        message.payload, length=length, layout_digest=layout.digest,
        subject_digest=layout.digest,
    )


def verify_step(
    reply: Reply, *, round_index: int, layout: AdapterLayout, support: Support, length: int
) -> SparseUpdate:
    """Check an update: ``length`` ring words for this round, layout and support.

    Raises:
        Rejected: With the site's own code, or MESSAGE_KIND, ROUND_MISMATCH,
            LAYOUT_MISMATCH, SUPPORT_MISMATCH, UPDATE_LENGTH.
    """
    message = _answer(reply, STEP)
    if message.integer("round") != round_index:
        raise Rejected("ROUND_MISMATCH", f"an answer is not for round {round_index}", _HINT)
    _same(message, "layout_digest", layout.digest, "LAYOUT_MISMATCH")
    _same(message, "support_digest", support.digest, "SUPPORT_MISMATCH")
    return SparseUpdate.from_bytes(
        message.payload, length=length, layout_digest=layout.digest,
        subject_digest=support.digest,
    )


def verify_evaluation(
    reply: Reply, *, length: int, layout: AdapterLayout, support: Support
) -> SparseUpdate:
    """Check counts or canary figures: ``length`` words for this layout and support.

    Raises:
        Rejected: With the site's own code, or MESSAGE_KIND, LAYOUT_MISMATCH,
            SUPPORT_MISMATCH, UPDATE_LENGTH.
    """
    message = _answer(reply, EVALUATE)
    _same(message, "layout_digest", layout.digest, "LAYOUT_MISMATCH")
    _same(message, "support_digest", support.digest, "SUPPORT_MISMATCH")
    return SparseUpdate.from_bytes(
        message.payload, length=length, layout_digest=layout.digest,
        subject_digest=support.digest,
    )


def verify_masking(reply: Reply, *, kind: str, session: str) -> Message:
    """Check an answer to one of masking's own exchanges; its bytes are read elsewhere.

    Raises:
        Rejected: With the site's own code, or MESSAGE_KIND, MASKING_SESSION_UNKNOWN.
    """
    message = _answer(reply, kind)
    if message.text(SESSION) != session:
        raise Rejected("MASKING_SESSION_UNKNOWN", "an answer is of another session", _HINT)
    return message


def require_own(reply: Reply, *, run_id: str, site_id: str) -> None:
    """Check that an answer is of this run and of the site that was asked.

    Raises:
        Rejected: RUN_MISMATCH or SITE_MISMATCH. A failure passes: it has no owner to check.
    """
    if isinstance(reply, SiteFailure) or reply.kind == ERROR:
        return
    if reply.text("run_id") != run_id:
        raise Rejected("RUN_MISMATCH", "an answer belongs to another run", _HINT)
    if reply.text("site_id") != site_id:
        raise Rejected("SITE_MISMATCH", f"an answer for {site_id} names another site",
                       "give every hospital its own site_id")


def _answer(reply: Reply, kind: str) -> Message:
    if isinstance(reply, SiteFailure):
        raise Rejected(code_of(reply), "a site gave no answer", "look at its own log")
    if reply.kind == ERROR:
        raise Rejected(code_of(reply), "a site answered with an error",
                       "look at the site's own log")
    if reply.kind != kind:
        raise Rejected("MESSAGE_KIND", f"an answer of another kind where {kind} is due", _HINT)
    return reply


def _same(message: Message, name: str, expected: str, code: str) -> None:
    found = message.text(name)
    if found != expected:
        raise Rejected(
            code, f"{name} of an answer begins {found[:12]!a}, not {expected[:12]}", _HINT
        )
