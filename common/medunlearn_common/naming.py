"""Names of parties, federations and legal entities, as people type them.

Rosters and invitations refuse a bad name too, but as a damaged document: whoever mistyped one
should hear what a name looks like.
"""

from __future__ import annotations

import re

from medunlearn_common.errors import Misconfigured

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ENTITY_CHARACTERS = 200


def is_entity(text: str) -> bool:
    """Whether a roster takes ``text`` as the name of a legal entity."""
    return 0 < len(text) <= ENTITY_CHARACTERS and text.isprintable()


def require_name(text: str, *, of: str) -> None:
    """Raises NAME_FORM unless ``text`` may name a party or a federation."""
    if not NAME.fullmatch(text):
        raise Misconfigured(
            "NAME_FORM", f"{text[:80]!a} cannot be the name of {of}",
            "use letters, digits, '.', '_' and '-', at most 64, a letter or digit first: clinic-a")


def require_entity(text: str) -> None:
    """Raises NAME_FORM unless ``text`` may name a legal entity."""
    if not is_entity(text):
        raise Misconfigured(
            "NAME_FORM", f"{text[:80]!a} cannot be the name of a legal entity",
            f"use one line of 1 to {ENTITY_CHARACTERS} printable characters: Clinic A GmbH")
