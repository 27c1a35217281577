"""Concepts in text: mentions, what a record says of them, and the level of each token."""

from medunlearn_client.tagging.context import ContextFinder
from medunlearn_client.tagging.decisions import (
    NO_DECISIONS,
    Outcome,
    TagDecision,
    TagDecisions,
    keep_decisions,
    mention_key,
    read_decisions,
)
from medunlearn_client.tagging.spans import (
    GENERIC_NAME,
    PATIENT_LINK,
    Assertion,
    ConceptSpan,
    abstract_text,
    extra_target_spans,
    token_levels,
)
from medunlearn_client.tagging.tagger import ConceptTagger
from medunlearn_common.concepts.folding import MAX_ACRONYM_CHARS

__all__ = [
    "GENERIC_NAME",
    "MAX_ACRONYM_CHARS",
    "NO_DECISIONS",
    "PATIENT_LINK",
    "Assertion",
    "ConceptSpan",
    "ConceptTagger",
    "ContextFinder",
    "Outcome",
    "TagDecision",
    "TagDecisions",
    "abstract_text",
    "extra_target_spans",
    "keep_decisions",
    "mention_key",
    "read_decisions",
    "token_levels",
]
