"""Makes the samples of this folder importable, and shares the tagger over them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from paraphrase_samples import HIERARCHY

from medunlearn_client.tagging import ConceptTagger


@pytest.fixture(scope="session")
def tagger() -> ConceptTagger:
    return ConceptTagger(HIERARCHY.with_forget_roots([]))
