"""What a plan says about how its hierarchies are read and joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Join = Literal["xrefs", "none"]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Choices that the loaders of some formats need.

    Attributes:
        licensed_sources: Restricted UMLS sources (root abbreviations such as
            ``SNOMEDCT_US``) that all parties are licensed to use.
        umls_sources: UMLS sources to read; empty reads all.
    """

    licensed_sources: tuple[str, ...] = ()
    umls_sources: tuple[str, ...] = ()
