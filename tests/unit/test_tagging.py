"""Mentions in text, token levels with a real tokenizer, and abstraction."""

from __future__ import annotations

import pickle
import time
from dataclasses import replace
from datetime import date
from typing import Any, Literal

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from medunlearn_client.records import Record
from medunlearn_client.tagging import (
    GENERIC_NAME,
    Assertion,
    ConceptSpan,
    ConceptTagger,
    abstract_text,
    extra_target_spans,
    token_levels,
)
from medunlearn_client.tagging.decisions import Outcome, TagDecision, TagDecisions
from medunlearn_common.concepts import (
    Concept,
    ConceptHierarchy,
    ConceptLevel,
    LeveledHierarchy,
    load_builtin,
)

CONCEPTS = [
    Concept(concept_id="top", name="medicine", level=ConceptLevel.FUNDAMENTAL),
    Concept(concept_id="gen", name="disease", parents=("top",), level=ConceptLevel.GENERAL),
    Concept(
        concept_id="her",
        name="hernia",
        synonyms=("rupture",),
        parents=("gen",),
        level=ConceptLevel.SPECIALTY,
    ),
    Concept(concept_id="ing", name="inguinal hernia", synonyms=("groin hernia",), parents=("her",)),
    Concept(concept_id="fem", name="femoral hernia", parents=("her",)),
    Concept(concept_id="rep", name="inguinal hernia repair", parents=("gen",)),
    Concept(
        concept_id="crohn", name="Crohn's disease", synonyms=("regional ileitis",), parents=("gen",)
    ),
    Concept(concept_id="turp", name="prostate resection", synonyms=("TURP",), parents=("gen",)),
    Concept(concept_id="aids", name="HIV stage three", synonyms=("AIDS",), parents=("gen",)),
    Concept(concept_id="shared1", name="tear", parents=("gen",)),
    Concept(concept_id="shared2", name="rotator cuff tear", synonyms=("tear",), parents=("her",)),
]


@pytest.fixture(scope="module")
def leveled() -> LeveledHierarchy:
    return ConceptHierarchy.from_concepts(CONCEPTS, source="t").with_forget_roots(["her"])


@pytest.fixture(scope="module")
def tagger(leveled: LeveledHierarchy) -> ConceptTagger:
    return ConceptTagger(leveled)


def found(tagger: ConceptTagger, text: str) -> list[tuple[str, str]]:
    return [(text[s.start : s.end], s.concept_id) for s in tagger.tag(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("nothing here", []),
        ("Hernia.", [("Hernia", "her")]),
        ("An INGUINAL Hernia", [("INGUINAL Hernia", "ing")]),
        ("inguinal hernia repair", [("inguinal hernia repair", "rep")]),
        ("inguinal hernia repairman", [("inguinal hernia", "ing")]),
        ("herniation, xhernia, hernia2", []),
        ("(hernia)/hernia", [("hernia", "her"), ("hernia", "her")]),
        ("inguinal\n  hernia!", [("inguinal\n  hernia", "ing")]),
        ("\n  inguinal-hernia", [("inguinal-hernia", "ing")]),
        ("inguinal \u2013\u00a0hernia  x", [("inguinal \u2013\u00a0hernia", "ing")]),
        ("inguinal, hernia", [("hernia", "her")]),
        ("groin hernia disease", [("groin hernia", "ing"), ("disease", "gen")]),
        ("two hernias and diseases", [("hernias", "her"), ("diseases", "gen")]),
        ("Crohn\u2019s disease", [("Crohn\u2019s disease", "crohn")]),
        ("crohn disease", [("crohn disease", "crohn")]),
        ("Crohns disease", [("Crohns disease", "crohn")]),
        ("regional ileites", [("regional ileites", "crohn")]),
        ("after TURP; TURPs", [("TURP", "turp"), ("TURPs", "turp")]),
        ("turp Turp TURPS aids", []),
        ("AIDS aids", [("AIDS", "aids")]),
        ("a tear", [("tear", "shared2")]),
        ("\u0130\u0130 hernia \u0130", [("hernia", "her")]),
    ],
)
def test_mentions(tagger: ConceptTagger, text: str, expected: list[tuple[str, str]]) -> None:
    assert found(tagger, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a her-\nnia", [("her-\nnia", "her")]),
        ("INGUI-  \r\n\t NAL HER\u00ad\nNIA", [("INGUI-  \r\n\t NAL HER\u00ad\nNIA", "ing")]),
        ("inguinal-\nhernia", [("inguinal-\nhernia", "ing")]),
        ("inguinal her\u2010\nnia re-\npair, hernia", [
            ("inguinal her\u2010\nnia re-\npair", "rep"), ("hernia", "her"),
        ]),
        ("her-\nnia2, her -\nnia, her-\n\nnia, her-nia, 2-\nhernia", [("hernia", "her")]),
        ("tear-\nhernia-\ntear", [
            ("tear", "shared2"), ("hernia", "her"), ("tear", "shared2"),
        ]),
    ],
)
def test_words_that_a_line_end_cuts_are_found(
    tagger: ConceptTagger, text: str, expected: list[tuple[str, str]]
) -> None:
    assert found(tagger, text) == expected


def test_a_cut_word_competes_with_its_parts_as_any_longer_mention_does() -> None:
    names = ("rest", "anti", "septic", "antiseptic", "scrub", "septic scrub")
    concepts = [Concept(concept_id=name.replace(" ", "-"), name=name) for name in names]
    hierarchy = ConceptHierarchy.from_concepts(concepts, source="t")
    for root, expected in (("rest", ["antiseptic", "scrub"]), ("septic-scrub", ["septic-scrub"])):
        tagger = ConceptTagger(hierarchy.with_forget_roots([root]))
        assert [concept for _, concept in found(tagger, "anti-\nseptic scrub")] == expected


def test_spans_carry_the_level_under_the_forget_roots(tagger: ConceptTagger) -> None:
    levels = [int(s.level) for s in tagger.tag("medicine, disease, inguinal hernia, TURP")]
    assert levels == [1, 2, 4, 2]
    assert tagger.matches_forget_root("a femoral hernia")
    assert not tagger.matches_forget_root("a disease")


def test_a_longer_mention_of_a_lower_level_wins() -> None:
    concepts = [
        Concept(concept_id="s", name="suture"),
        Concept(concept_id="c", name="cranial suture"),
    ]
    hierarchy = ConceptHierarchy.from_concepts(concepts, source="t")
    tagger = ConceptTagger(hierarchy.with_forget_roots(["s"]))
    assert not tagger.matches_forget_root("the cranial suture")
    assert tagger.matches_forget_root("a silk suture")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("urinary bladder carcinoma", ["bladder carcinoma"]),
        ("a bladder carcinoma scar", ["bladder carcinoma scar"]),
        ("urinary bladder and bladder carcinoma", ["urinary bladder", "bladder carcinoma"]),
        ("bladder carcinoma scar tissue", ["bladder carcinoma scar"]),
        ("urinary bladder wall", ["urinary bladder"]),
    ],
)
def test_no_mention_that_ends_before_a_target_hides_it(text: str, expected: list[str]) -> None:
    names = ("urinary bladder", "bladder carcinoma scar", "scar tissue", "bladder wall")
    kept = [Concept(concept_id=f"C{n}", name=name) for n, name in enumerate(names)]
    target = Concept(concept_id="target", name="bladder carcinoma")
    hierarchy = ConceptHierarchy.from_concepts([*kept, target], source="t")
    tagger = ConceptTagger(hierarchy.with_forget_roots(["target"]))
    assert [words for words, _ in found(tagger, text)] == expected


def test_an_inflection_never_beats_a_deeper_concept_of_that_name() -> None:
    concepts = [
        Concept(concept_id="a", name="arm"),
        Concept(concept_id="b", name="hand", parents=("a",)),
        Concept(concept_id="c", name="hands", parents=("b",)),
    ]
    hierarchy = ConceptHierarchy.from_concepts(concepts, source="t")
    tagger = ConceptTagger(hierarchy.with_forget_roots(["c"]))
    assert found(tagger, "hands hand") == [("hands", "c"), ("hand", "c")]


def test_equal_names_at_equal_level_go_to_the_greater_depth() -> None:
    concepts = [
        Concept(concept_id="a", name="root"),
        Concept(concept_id="b", name="same", parents=("a",)),
        Concept(concept_id="c", name="between", parents=("a",)),
        Concept(concept_id="d", name="same", parents=("c",)),
    ]
    hierarchy = ConceptHierarchy.from_concepts(concepts, source="t")
    tagger = ConceptTagger(hierarchy.with_forget_roots(["a"]))
    assert found(tagger, "same") == [("same", "d")]


def test_equal_names_at_equal_depth_go_to_the_smallest_id() -> None:
    for order in (1, -1):
        concepts = [Concept(concept_id=i, name="same") for i in ("y", "x")][::order]
        hierarchy = ConceptHierarchy.from_concepts(
            [*concepts, Concept(concept_id="z", name="zone")], source="t"
        )
        assert found(ConceptTagger(hierarchy.with_forget_roots(["z"])), "same") == [("same", "x")]


def test_terms_of_one_character_or_without_letters_are_ignored() -> None:
    concepts = [
        Concept(concept_id="a", name="T"),
        Concept(concept_id="b", name="42"),
        Concept(concept_id="c", name="--", synonyms=("T2",)),
    ]
    hierarchy = ConceptHierarchy.from_concepts(concepts, source="t")
    tagger = ConceptTagger(hierarchy.with_forget_roots(["a"]))
    assert found(tagger, "T 42 -- T2") == [("T2", "c")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Hernia", "hernias"),
        ("Inguinal Hernia", "two Inguinal Hernias"),
        ("Neoplasms", "a neoplasm"),
        ("Fracture of Neck of Femur", "fractures of neck of femur"),
        ("Diverticulum", "diverticula"),
        ("Nonabsorbable Sutures", "non-absorbable suture"),
        ("Postoperative Pain", "post-operative pain"),
        ("Tourette Syndrome", "Tourette's syndrome"),
        ("Crohn Disease", "Crohn\u2019s disease"),
        ("Ewing Sarcoma", "Ewing's sarcoma"),
    ],
)
def test_a_name_with_capitals_is_found_in_all_its_spellings(name: str, text: str) -> None:
    """MeSH writes names so, ICD-10-CM and SNOMED CT begin them so."""
    hierarchy = ConceptHierarchy.from_concepts([Concept(concept_id="x", name=name)], source="t")
    assert ConceptTagger(hierarchy.with_forget_roots(["x"])).matches_forget_root(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("acute myeloid leukemia", "Acute myeloid leukaemia"),
        ("Hemorrhagic Anemia", "haemorrhagic anaemia"),
        ("oesophageal tumour", "ESOPHAGEAL TUMORS"),
        ("Edema", "oedema"),
        ("Anesthesia, Local, Pediatric", "paediatric local anaesthesia"),
        ("Leukemia, Myeloid, Acute", "acute myeloid leukaemia"),
        ("beta-Thalassemia", "\u03b2-thalassaemia"),
        ("alpha 1-Antitrypsin Deficiency", "\u03b11-antitrypsin deficiency"),
        ("\u03b2 blocker overdose", "beta-blocker overdose"),
        ("Fibrosis", "\ufb01brosis"),
        ("reflux oesophagitis", "re\ufb02ux \u0153sophagitis"),
        ("hernia", "\uff28\uff45\uff52\uff4e\uff49\uff41"),
        ("femoral hernia", "femoral\u3000\U0001d421\U0001d41e\U0001d42bnia"),
        ("Vitamin B12 Deficiency", "vitamin B\u2081\u2082 deficiency"),
        ("Type 2 diabetes", "type \uff12 diabetes"),
        ("Crohn's disease [regional enteritis]", "Crohn\u00b4s disease"),
        ("Crohn's disease", "Crohn`s disease"),
        ("Vitamin B 12 Deficiency", "vitamin B12 deficiency"),
        ("COVID-19", "Covid19"),
        ("Diabetes Mellitus, Type 2", "diabetes mellitus, type II"),
        ("type IV hypersensitivity", "type 4 hypersensitivity"),
        ("Diabetes", "d\u0456\u0430b\u0435tes"),
        ("Hernia NOS", "hernias"),
        ("Anemia, unspecified", "anaemia"),
        ("Unspecified abdominal hernia", "abdominal hernia"),
        ("Systemic lupus erythematosus [SLE], unspecified", "systemic lupus erythematosus"),
        ("inguinal hernia", "inguinal\u2003hernia"),
        ("inguinal hernia", "inguinal\u2212hernia"),
        ("inguinal hernia", "inguinal \u200f\u202bhernia\u202c"),
    ],
)
def test_a_term_is_found_as_the_other_country_or_a_page_prints_it(name: str, text: str) -> None:
    hierarchy = ConceptHierarchy.from_concepts([Concept(concept_id="x", name=name)], source="t")
    spans = ConceptTagger(hierarchy.with_forget_roots(["x"])).tag(f"\ufb01rst {text}, then")
    assert [(s.start, s.end) for s in spans] == [(5, 5 + len(text.removesuffix("\u202c")))]


def test_a_sign_that_ends_a_word_is_no_letter_of_it() -> None:
    """Plain forms would make ``n\u00ba``, a number, deny what follows, and hide a brand."""
    hierarchy = ConceptHierarchy.from_concepts([Concept(concept_id="x", name="Lyrica")], source="t")
    tagger = ConceptTagger(hierarchy.with_forget_roots(["x"]))
    text = "File n\u00ba A: Lyrica\u24c7"
    record = Record(record_id="r", prompt=text, answer="yes", patient_id="p")
    assert [span.assertion for span in tagger.tag_record(record)] == [Assertion.AFFIRMED]


def test_a_name_that_is_left_belongs_to_the_concept_that_has_it_itself() -> None:
    concepts = [
        Concept(concept_id="c", name="Cholera"),
        Concept(concept_id="c9", name="Cholera, unspecified", parents=("c",)),
        Concept(concept_id="x", name="Cause", synonyms=("cholera NOS", "NOS", "unspecified")),
    ]
    tagger = ConceptTagger(
        ConceptHierarchy.from_concepts(concepts, source="t").with_forget_roots(["c9"])
    )
    assert found(tagger, "cholera") == [("cholera", "c")]


def test_an_acronym_beside_what_it_stands_for_is_found_alone() -> None:
    """The editors of SNOMED CT allow no other."""
    concept = Concept(
        concept_id="x", name="Acute myeloid leukaemia",
        synonyms=(
            "AML - Acute myeloid leukaemia", "CA - cancer of blood", "CTX - scan of a scar",
            "LONGISH - long-ish",
        ),
    )
    tagger = ConceptTagger(
        ConceptHierarchy.from_concepts([concept], source="t").with_forget_roots(["x"])
    )
    assert found(tagger, "AML, aml, CA, CTX, LONGISH, Aml - acute myeloid leukaemia") == [
        ("AML", "x"), ("Aml - acute myeloid leukaemia", "x"),
    ]


@pytest.mark.parametrize(("name", "text"), [
    ("colorectal disease", "colourectal disease"),
    ("laboratory finding", "labouratory finding"),
    ("oesophagus", "ooesophagus"),
    ("tumour", "tumouur"),
])
def test_no_rule_of_spelling_is_applied_twice_or_within_another_word(name: str, text: str) -> None:
    hierarchy = ConceptHierarchy.from_concepts([Concept(concept_id="x", name=name)], source="t")
    assert not ConceptTagger(hierarchy.with_forget_roots(["x"])).tag(text)


def test_capitals_make_no_other_word_of_an_acronym_or_a_heading() -> None:
    names = ("AIDS", "Wearers of AIDS", "Wills", "News")
    concepts = [Concept(concept_id=f"x{n}", name=name) for n, name in enumerate(names)]
    tagger = ConceptTagger(
        ConceptHierarchy.from_concepts(concepts, source="t").with_forget_roots(["x0"])
    )
    assert found(tagger, "aid AID, wearers of aid, a new one will") == []


def test_a_tagger_survives_pickling(tagger: ConceptTagger) -> None:
    copy = pickle.loads(pickle.dumps(tagger))
    text = "groin hernia after TURP"
    assert copy.tag(text) == tagger.tag(text)


def test_speed_on_the_builtin_hierarchy() -> None:
    tagger = ConceptTagger(load_builtin("all").with_forget_roots(["MU:S0001"]))
    text = "A patient with acute appendicitis and fever had an appendectomy. " * 16_000
    started = time.process_time()
    spans = tagger.tag(text)
    seconds = time.process_time() - started
    assert len(spans) >= 4 * 16_000
    assert len(text) / seconds > 1e6, f"{len(text) / seconds / 1e6:.1f} million characters/s"


# --- token levels -----------------------------------------------------------------------------


def span(start: int, end: int, level: int) -> ConceptSpan:
    return ConceptSpan(start=start, end=end, concept_id="x", level=ConceptLevel(level))


def test_token_levels_take_the_deepest_overlapping_span() -> None:
    offsets = [(0, 0), (0, 3), (3, 6), (6, 9), (9, 9), (9, 12)]
    levels = token_levels([span(4, 8, 4), span(0, 7, 2)], offsets)
    assert levels.dtype == np.int8
    assert levels.tolist() == [1, 2, 4, 4, 1, 1]


def test_token_levels_default_and_empty() -> None:
    assert token_levels([], []).shape == (0,)
    assert token_levels([], [(0, 2)], default=ConceptLevel.GENERAL).tolist() == [2]
    low = token_levels([span(0, 2, 1)], [(0, 2), (2, 4)], default=ConceptLevel.GENERAL)
    assert low.tolist() == [1, 2]


def test_patient_spans_are_targets() -> None:
    spans = extra_target_spans([(0, 4), (10, 12)])
    assert token_levels(spans, [(0, 4), (4, 10), (10, 12)]).tolist() == [4, 1, 4]


@pytest.fixture(scope="module")
def byte_level_tokenizer() -> Tokenizer:
    """A real byte-level BPE, as Llama-like models have, trained on a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    pre_tokenizer: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>"], initial_alphabet=pre_tokenizer.alphabet()
    )
    tokenizer.train_from_iterator(["the patient has an inguinal hernia and fever"] * 50, trainer)
    return tokenizer


def test_a_byte_level_tokens_leading_space_does_not_count(
    tagger: ConceptTagger, byte_level_tokenizer: Tokenizer
) -> None:
    text = "the patient has an inguinal hernia and fever"
    encoded = byte_level_tokenizer.encode(text)
    assert (text.index(" hernia"), text.index(" and")) in encoded.offsets
    levels = token_levels(tagger.tag(text), encoded.offsets)
    by_word = dict(zip((text[s:e] for s, e in encoded.offsets), levels.tolist(), strict=True))
    assert by_word == {
        "the": 1,
        " patient": 1,
        " has": 1,
        " an": 1,
        " inguinal": 4,
        " hernia": 4,
        " and": 1,
        " fever": 1,
    }


@pytest.mark.parametrize(
    "text",
    [
        "Ein Patient: Größe 5 µm, inguinal hernia, 発熱",
        "🙂hernia🙂 then  inguinal\n\thernia.",
        "caf\u0301e hernias—hernia",
    ],
)
def test_every_character_of_a_mention_and_no_other_is_covered(
    tagger: ConceptTagger, byte_level_tokenizer: Tokenizer, text: str
) -> None:
    encoded = byte_level_tokenizer.encode(text)
    spans = tagger.tag(text)
    assert spans
    inside = {i for s in spans for i in range(s.start, s.end)}
    for level, (start, end) in zip(
        token_levels(spans, encoded.offsets).tolist(), encoded.offsets, strict=True
    ):
        touches = any(i in inside for i in range(start, end))
        assert (level == 4) == touches


# --- abstraction ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mode", "choice", "expected"),
    [
        ("An inguinal hernia.", "parent", 0, "An hernia."),
        ("An inguinal hernia.", "parent", 5, "An hernia."),
        ("An inguinal hernia.", "sibling", 0, "An femoral hernia."),
        ("An inguinal hernia.", "sibling", 1, "An rotator cuff tear."),
        ("An inguinal hernia.", "sibling", 2, "An femoral hernia."),
        ("Inguinal hernia or HERNIA", "parent", 0, "Hernia or disease"),
        ("Who? Femoral hernia. Has\nRupture", "parent", 0, "Who? Hernia. Has\nDisease"),
        ("the Femoral hernia", "parent", 0, "the hernia"),
        ("fever, TURP and disease", "parent", 0, "fever, TURP and disease"),
        ("groin hernia  tear", "parent", 0, "hernia  hernia"),
    ],
)
def test_targets_are_replaced(
    tagger: ConceptTagger,
    text: str,
    mode: Literal["parent", "sibling"],
    choice: int,
    expected: str,
) -> None:
    spans = tagger.tag(text)
    assert abstract_text(text, spans, tagger.hierarchy, mode=mode, choice=choice) == expected


def test_roots_only_children_and_patient_spans_are_replaced_too() -> None:
    concepts = [
        Concept(concept_id="r", name="root term"),
        Concept(concept_id="c", name="only child", parents=("r",)),
    ]
    hierarchy = ConceptHierarchy.from_concepts(concepts, source="t")
    tagger = ConceptTagger(hierarchy.with_forget_roots(["r"]))
    text = "root term, only child, Jane Doe"
    spans = (*tagger.tag(text), *extra_target_spans([(23, 31)]))
    replaced = abstract_text(text, spans, hierarchy, mode="sibling", choice=3)
    assert replaced == f"{GENERIC_NAME}, root term, {GENERIC_NAME}"


def test_overlapping_spans_are_replaced_once(leveled: LeveledHierarchy) -> None:
    text = "Jane has hernia now"
    spans = [
        ConceptSpan(start=9, end=15, concept_id="her", level=ConceptLevel.TARGET),
        *extra_target_spans([(0, 15)]),
    ]
    assert abstract_text(text, spans, leveled, mode="parent", choice=0) == "Medical concept now"


CODED = ("fem Schenkelbruch li.", "her Bruch", "gen Grippe", "nowhere Husten", "ing")


@pytest.mark.parametrize(("answer", "meant"), [
    ("Schenkelbruch li.", {("Schenkelbruch li.", "fem")}),
    ("Bruch, Schenkelbruch li., Grippe, Husten", {("Bruch", "her"), ("Schenkelbruch li.", "fem")}),
    ("Bruchstelle", set()), ("schenkelbruch li.", set()),
])
def test_words_that_the_codes_of_a_record_mean_are_a_mention(
    tagger: ConceptTagger, answer: str, meant: set[tuple[str, str]]
) -> None:
    """Of what is to be forgotten: what it is called in the record need be no name of it."""
    record = Record(record_id="r", prompt="What was found?", answer=answer, coded=CODED)
    spans = tagger.tag_record(record)
    assert {(record.text[span.start : span.end], span.concept_id) for span in spans} == meant
    assert tagger.record_matches_forget_root(record) == bool(meant)
    assert not tagger.tag(record.text)


def test_names_of_targets_win_over_codes_and_codes_over_other_names(tagger: ConceptTagger) -> None:
    def spans(words: str) -> list[tuple[str, str]]:
        record = Record(record_id="r", prompt="Found:", answer=words, coded=(f"ing {words}",))
        return [(record.text[s.start : s.end], s.concept_id) for s in tagger.tag_record(record)]

    assert spans("left femoral hernia") == [("femoral hernia", "fem")]
    assert spans("groin disease") == [("groin disease", "ing")]


def test_a_record_of_many_coded_mentions_takes_no_time(leveled: LeveledHierarchy) -> None:
    """Sorted anew for every mention, and read from place to place for every code: 9 seconds."""
    words = [f"Befund {number}" for number in range(4_000)]
    record = Record(record_id="r", prompt="What was found?", answer="; ".join(words),
                    coded=tuple(f"her {one}" for one in words))
    tagger = ConceptTagger(leveled)
    started = time.process_time()
    spans = tagger.found_in(record)
    assert time.process_time() - started < 3
    assert [record.text[span.start : span.end] for span in spans] == words


def test_what_codes_say_is_decided_upon_and_denied_as_a_name_is(leveled: LeveledHierarchy) -> None:
    words = "Schenkelbruch li."
    record = Record(record_id="r", prompt="What was found?", answer=words, patient_id="p",
                    coded=CODED)
    no = TagDecision(key="k-1", mention=words, outcome=Outcome.REJECT, everywhere=True, author="A",
                     decided_on=date(2026, 1, 31))
    tagger = ConceptTagger(leveled, decisions=TagDecisions([no]))
    assert not tagger.record_matches_forget_root(record)
    mentions = [(record, span) for span in tagger.found_in(record)]
    assert tagger.decisions.unmet(mentions) == 0
    assert ConceptTagger(leveled).record_matches_forget_root(record)
    denied = replace(record, answer=f"No {words}")
    assert not ConceptTagger(leveled).record_matches_forget_root(denied)
