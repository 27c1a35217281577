"""Tagging against a slow oracle that restates the documented rules without an automaton."""

from __future__ import annotations

import re

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from medunlearn_client.records import Record
from medunlearn_client.tagging import (
    MAX_ACRONYM_CHARS,
    ConceptSpan,
    ConceptTagger,
    abstract_text,
    token_levels,
)
from medunlearn_common.concepts import Concept, ConceptHierarchy, ConceptLevel, LeveledHierarchy
from medunlearn_common.concepts.folding import breaks_in_words

# Words stay below four letters and without apostrophes, so that no inflection is made: the oracle
# is about matching. The letters include one that is longer in lower case, and one that is not.
# There is no digit, which may stand apart from its letters or not (IL-2, IL2).
WORDS = st.text("abAB\u0130ß", min_size=1, max_size=3)
SEPARATORS = st.sampled_from([" ", "-", "  ", "\n", " - ", "\u2013"])
GAP = re.compile("[ \n\u2013-]+")
# An acronym may carry a plural "s", which these alphabets cannot write.


@st.composite
def phrases(draw: st.DrawFn, max_words: int) -> str:
    words = draw(st.lists(WORDS, min_size=1, max_size=max_words))
    return "".join(word + draw(SEPARATORS) for word in words[:-1]) + words[-1]


@st.composite
def hierarchies(draw: st.DrawFn) -> LeveledHierarchy:
    """Up to eight concepts; each but the first may hang below an earlier one."""
    concepts = []
    for number, terms in enumerate(
        draw(st.lists(st.lists(phrases(3), min_size=1, max_size=3), min_size=1, max_size=8))
    ):
        parents = draw(st.sets(st.integers(0, number - 1), max_size=2)) if number else set()
        concepts.append(
            Concept(
                concept_id=f"C{number}",
                name=terms[0],
                synonyms=tuple(terms[1:]),
                parents=tuple(f"C{parent}" for parent in parents),
            )
        )
    root = draw(st.integers(0, len(concepts) - 1))
    hierarchy = ConceptHierarchy.from_concepts(concepts, source="property")
    return hierarchy.with_forget_roots([f"C{root}"])


TEXTS = st.lists(
    st.one_of(WORDS, st.sampled_from([" ", " ", "-", "  ", "\n", ",", "(", "\u2013"])), max_size=25
).map("".join)


def fold(character: str) -> str:
    return low if len(low := character.lower()) == 1 else character


def match_end(text: str, start: int, term: str) -> int | None:
    """End of ``term`` in the text at ``start``, or None; no boundaries checked yet."""
    words = [word for word in GAP.split(term) if word]
    exact = len(" ".join(words)) <= MAX_ACRONYM_CHARS and " ".join(words).isupper()
    position = start
    for number, word in enumerate(words):
        if number:
            gap = GAP.match(text, position)
            if gap is None:
                return None
            position = gap.end()
        written = text[position : position + len(word)]
        if exact and written != word:
            return None
        if [fold(c) for c in written] != [fold(c) for c in word]:
            return None
        position += len(word)
    return position


def oracle(hierarchy: LeveledHierarchy, text: str) -> list[ConceptSpan]:
    spans = []
    start = 0
    while start < len(text):
        best: tuple[int, int, int, str] | None = None
        for concept in hierarchy.hierarchy.concepts():
            for term in concept.terms:
                joined = " ".join(filter(None, GAP.split(term)))
                if len(joined) < 2 or not any(c.isalpha() for c in joined):
                    continue
                end = match_end(text, start, term)
                if end is None or (end < len(text) and text[end].isalnum()):
                    continue
                if start and text[start - 1].isalnum():
                    continue
                level = hierarchy.level_of(concept.concept_id)
                depth = hierarchy.hierarchy.depth(concept.concept_id)
                candidate = (-end, -int(level), -depth, concept.concept_id)
                best = candidate if best is None else min(best, candidate)
        if best is None:
            start += 1
            continue
        level = ConceptLevel(-best[1])
        spans.append(ConceptSpan(start=start, end=-best[0], concept_id=best[3], level=level))
        start = -best[0]
    return spans


def single(*terms: str) -> LeveledHierarchy:
    concept = Concept(concept_id="C0", name=terms[0], synonyms=terms[1:])
    return ConceptHierarchy.from_concepts([concept], source="p").with_forget_roots(["C0"])


@settings(max_examples=400)
@given(hierarchies(), TEXTS.filter(lambda text: not breaks_in_words(text)))
@example(single("ab", "ab-a b"), "ab  a b ab a")
@example(single("AB", "ab a"), "ab AB AB a")
def test_tagging_equals_the_oracle(hierarchy: LeveledHierarchy, text: str) -> None:
    assert list(ConceptTagger(hierarchy).tag(text)) == oracle(hierarchy, text)


@settings(max_examples=200)
@given(hierarchies(), st.data())
def test_planted_terms_are_found(hierarchy: LeveledHierarchy, data: st.DataObject) -> None:
    terms = [t for c in hierarchy.hierarchy.concepts() for t in c.terms]
    term = data.draw(st.sampled_from(terms))
    joined = " ".join(filter(None, GAP.split(term)))
    spans = ConceptTagger(hierarchy).tag(f"({joined})")
    taggable = len(joined) >= 2 and any(c.isalpha() for c in joined)
    assert not taggable or spans
    assert not taggable or spans[0].start == 1


@settings(max_examples=200)
@given(hierarchies(), st.text(max_size=80))
def test_spans_are_sorted_disjoint_visible_and_in_range(
    hierarchy: LeveledHierarchy, text: str
) -> None:
    end_before = 0
    for span in ConceptTagger(hierarchy).tag(text):
        assert end_before <= span.start < span.end <= len(text)
        assert not text[span.start].isspace()
        assert not text[span.end - 1].isspace()
        end_before = span.end


SPANS = st.lists(
    st.builds(
        lambda start, length, level: ConceptSpan(
            start=start, end=start + length, concept_id="x", level=ConceptLevel(level)
        ),
        st.integers(0, 30),
        st.integers(1, 10),
        st.integers(1, 4),
    ),
    max_size=6,
)
OFFSETS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), max_size=12).map(
    lambda pairs: [(start, start + length) for start, length in pairs]
)


@given(SPANS, SPANS, OFFSETS)
def test_more_spans_never_lower_a_level(
    some: list[ConceptSpan], more: list[ConceptSpan], offsets: list[tuple[int, int]]
) -> None:
    assert (token_levels(some + more, offsets) >= token_levels(some, offsets)).all()


@given(SPANS, OFFSETS)
def test_token_levels_equal_a_character_by_character_count(
    spans: list[ConceptSpan], offsets: list[tuple[int, int]]
) -> None:
    deepest = [
        max((int(s.level) for s in spans if s.start <= i < s.end), default=1) for i in range(60)
    ]
    expected = [max(deepest[start:end], default=1) for start, end in offsets]
    assert token_levels(spans, offsets).tolist() == expected


@given(hierarchies(), TEXTS, st.integers(0, 5), st.sampled_from(["parent", "sibling"]))
def test_abstraction_changes_nothing_outside_the_targets(
    hierarchy: LeveledHierarchy, text: str, choice: int, mode: str
) -> None:
    spans = ConceptTagger(hierarchy).tag(text)
    targets = [s for s in spans if s.level is ConceptLevel.TARGET]
    kept, done = [], 0
    for span in targets:
        kept.append(text[done : span.start])
        done = span.end
    kept.append(text[done:])
    result = abstract_text(text, spans, hierarchy, mode=mode, choice=choice)  # type: ignore[arg-type]
    assert re.fullmatch(".+".join(map(re.escape, kept)), result, re.DOTALL)
    assert result == abstract_text(text, spans, hierarchy, mode=mode, choice=choice)  # type: ignore[arg-type]


CUES = ["no ", "denies ", "mother's ", "family history of ", "? ", " was ruled out", ". ", ", ",
        "\n", " but ", "if ", "not only "]
NOTES = st.lists(
    st.one_of(st.sampled_from(CUES), WORDS, st.text(max_size=3)), min_size=1, max_size=20
).map("".join)


@settings(max_examples=300)
@given(hierarchies(), NOTES, st.text("no bAd?.", min_size=1, max_size=12))
def test_records_keep_offsets_and_levels_only_sink(
    hierarchy: LeveledHierarchy, prompt: str, answer: str
) -> None:
    """Whatever a note says: same places and concepts, and no level above the one without it."""
    assume(prompt.strip() and answer.strip())
    record = Record(
        record_id="r", prompt=prompt.rstrip(), answer=answer.strip(), patient_id="p"
    )
    tagger = ConceptTagger(hierarchy)
    plain, found = tagger.tag(record.text), tagger.tag_record(record)
    ordinary = hierarchy.hierarchy.with_forget_roots([])
    assert [(s.start, s.end, s.concept_id) for s in found] == [
        (s.start, s.end, s.concept_id) for s in plain
    ]
    for before, after in zip(plain, found, strict=True):
        assert 0 <= after.start < after.end <= len(record.text)
        if after.assertion.is_not_the_patients:
            assert after.level == ordinary.level_of(after.concept_id) < ConceptLevel.TARGET
        else:
            assert after.level == before.level


FOLDED = ["renal stone", "non-absorbable suture", "Crohn's disease", "diverticulum",
          "fracture of femur", "Tourette syndrome", "TURP", "pre-eclampsia"]
SPELLED = {
    "renal stone": ["Renal Stones", "RENAL STONE", "renal-stone", "renal \n stones"],
    "non-absorbable suture": ["nonabsorbable sutures", "Non absorbable  suture"],
    "Crohn's disease": ["crohn disease", "Crohns disease", "CROHN\u2019S DISEASE"],
    "diverticulum": ["diverticula", "Diverticulum"],
    "fracture of femur": ["Fractures of  femur", "fracture\u2010of\u2010femur"],
    "Tourette syndrome": ["Tourette's syndrome", "tourette syndrome"],
    "TURP": ["TURP", "TURPs"],
    "pre-eclampsia": ["preeclampsia", "pre eclampsia"],
}
PADDING = st.text(st.sampled_from(" \n\t\u0130\u00dfé,.(\U0001f642\u2013"), max_size=8)


@settings(max_examples=300)
@given(st.sampled_from(FOLDED), st.data())
def test_folded_spellings_are_found_at_their_place_in_the_original(
    term: str, data: st.DataObject
) -> None:
    written = data.draw(st.sampled_from(SPELLED[term]))
    before, after = data.draw(PADDING), data.draw(PADDING)
    assume(not (before[-1:].isalnum() or after[:1].isalnum()))
    spans = ConceptTagger(single(term)).tag(before + written + after)
    assert [(span.start, span.end) for span in spans] == [
        (len(before), len(before) + len(written))
    ]


@settings(max_examples=200)
@given(st.sampled_from(["TURP", "AIDS", "T-PA", "5-HT"]), st.data())
def test_folding_leaves_acronyms_alone(term: str, data: st.DataObject) -> None:
    """Only as written, hyphens apart, or with a plural s."""
    written = data.draw(st.sampled_from([
        term.lower(), term.title() if term != "5-HT" else "5-Ht", term[:-1], term + "es",
        term + "'x", term.replace("-", "") + "q",
    ]))
    spans = ConceptTagger(single(term)).tag(f"({written})")
    assert [written for _ in spans if not written.startswith(term)] == []
    assert len(ConceptTagger(single(term)).tag(f"({term}s)")) == 1
