"""Other wordings: what they carry over, what is dropped, and on what they depend."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paraphrase_samples import HIERARCHY, ask, marked

from medunlearn_client.paraphrases import Fault, Paraphraser, WordingSet, load_wordings
from medunlearn_client.paraphrases.faithful import _numbers, fault_of
from medunlearn_client.paraphrases.rewording import reworded, taken_apart
from medunlearn_client.paraphrases.synonyms import synonym_wordings
from medunlearn_client.paraphrases.templates import MAX_QUESTION_CHARS, Rewrite, packaged_text
from medunlearn_client.records import Record
from medunlearn_client.tagging import ConceptTagger
from medunlearn_common.concepts import Concept, ConceptHierarchy, load_hierarchies
from medunlearn_common.errors import Misconfigured

KINDS = {
    "Which of the following is true about ulcers?": "which_of_the_following",
    "What is the passport number of Ann Lee?": "patient",
    "When was the cast removed?": "date",
    "Which antibiotic is given?": "drug",
    "Which incision opens the abdomen?": "procedure",
    "A child is pale. Most likely diagnosis is": "diagnosis",
    "Respiratory centre is located at:": "other",
}


@pytest.fixture(scope="session")
def wordings() -> WordingSet:
    return load_wordings()


@pytest.fixture
def maker(wordings: WordingSet, tagger: ConceptTagger) -> Paraphraser:
    return Paraphraser(wordings, tagger, max_per_record=6)


@pytest.mark.parametrize(("question", "kind"), KINDS.items())
def test_the_kind_is_found_from_the_words(
    maker: Paraphraser, question: str, kind: str
) -> None:
    made = maker.of(ask(question))
    assert made.kind == kind
    assert made.made


def test_a_patients_question_in_other_words_still_singles_him_out(maker: Paraphraser) -> None:
    question = "Which condition was recorded for Ann Lee, born 1970-01-02, on 2011-03-04?"
    record = marked(question, "Ann Lee, born 1970-01-02", "2011-03-04", answer="asthma")
    made = maker.of(record)
    assert len(made.made) >= 4
    for other in made.records:
        said = {other.text[start:end] for start, end in other.target_spans}
        assert said == {"Ann Lee, born 1970-01-02", "2011-03-04", "asthma"}
        assert (other.answer, other.patient_id) == (record.answer, "p")
        assert other.prompt != record.prompt and other.record_id.startswith("r~")


def test_a_wording_that_loses_a_marked_span_is_no_record() -> None:
    record = marked("Who treats Ann Lee?", "Ann Lee")
    assert reworded(record, "Who treats her?", number=1) is None
    assert reworded(record, "Ann Lee is treated by whom?", number=1) is not None


def test_a_subject_line_stays_in_front(maker: Paraphraser) -> None:
    record = Record(record_id="r", answer="forty",
                    prompt="Subject: Surgery\nQuestion: Which drain is left?\nAnswer:")
    others = maker.of(record).records
    assert others
    assert all(o.prompt.startswith("Subject: Surgery\nQuestion: ") for o in others)
    assert all(o.prompt.endswith("\nAnswer:") for o in others)
    assert taken_apart("Say a number").question == "Say a number"


@pytest.mark.parametrize(
    ("question", "wording", "fault"),
    [
        ("Which dose is 40 mg?", "Which dose is 4 mg?", Fault.IDENTIFIER),
        ("Which drug for MR-17?", "Which drug for MR-18?", Fault.IDENTIFIER),
        ("What does Ann take?", "What does Eve take?", Fault.NAME),
        ("Which is not true here?", "Which is true here?", Fault.NEGATION),
        ("Which is true here?", "Which isn't true here?", Fault.NEGATION),
        ("All are seen except", "All are seen", Fault.NEGATION),
        ("What eases a kidney stone?", "What eases a gallstone?", Fault.CONCEPT),
        ("What eases it?", "What eases a kidney stone?", Fault.CONCEPT),
        ("Who has two scars?", "Who has three scars?", Fault.IDENTIFIER),
        ("Who gets 5 mg in 10 ml?", "Who gets 5 ml in 10 mg?", Fault.IDENTIFIER),
        ("What if it is < 5 mm?", "What if it is > 5 mm?", Fault.IDENTIFIER),
        ("What eases seasonal colds?", "What eases non-seasonal colds?", Fault.NEGATION),
        ("Which is true here?", "Which is untrue here?", Fault.NEGATION),
        ("What feeds the left arm?", "What supplies the right arm?", Fault.OPPOSITE),
        ("What feeds the left kidney?", "What right vessel feeds the left kidney?", Fault.OPPOSITE),
        ("What increases it?", "What decreases it?", Fault.OPPOSITE),
        ("When is it indicated?", "When is it contraindicated?", Fault.OPPOSITE),
        ("How many days?", "Is it forty days?", Fault.ANSWER),
        ("How many days?", "how many  DAYS", Fault.SAME),
        ("How many days?", "  ", Fault.EMPTY),
        ("How many days?", "days " * 100, Fault.EMPTY),
    ],
)
def test_an_unfaithful_wording_is_dropped(
    tagger: ConceptTagger, question: str, wording: str, fault: Fault
) -> None:
    assert fault_of(ask(question), question, wording, tagger) is fault


def test_synonyms_are_exact_and_in_the_same_number(tagger: ConceptTagger) -> None:
    def said(text: str) -> tuple[str, ...]:
        return synonym_wordings(text, tagger, untouched=())

    assert said("Which suture closes after appendectomy?") == (
        "Which suture closes after appendicectomy?",
    )
    assert said("What is the cause of kidney stones?") == (
        "What is the cause of renal calculi?",
    )
    # A narrower name finds the concept and takes nobody's place, nor is it replaced.
    assert said("What is the dose of lignocaine?") == ()
    assert said("Who described the McBurney approach?") == ()
    # One spelling of one name is no other name.
    assert said("What is a non absorbable suture?") == ()


def test_synonyms_keep_the_number_of_eponyms_and_of_names_without_a_plural() -> None:
    hierarchy = ConceptHierarchy.from_concepts([
        Concept(concept_id="T:1", name="Down syndrome", synonyms=("trisomy G",),
                exact=("trisomy G",)),
        Concept(concept_id="T:2", name="radiograph", synonyms=("X-ray", "plain film"),
                exact=("X-ray", "plain film")),
    ], source="test")
    tagger = ConceptTagger(hierarchy.with_forget_roots([]))

    def said(text: str) -> tuple[str, ...]:
        return synonym_wordings(text, tagger, untouched=())

    assert said("Who has Down's syndrome?") == ("Who has trisomy G?",)
    assert said("What are radiographs?") == ("What are plain films?",)
    assert said("What is the radiograph?") == ("What is the X-ray?", "What is the plain film?")


def test_a_word_beside_its_opposite_and_a_longer_name_are_no_reversal(
    tagger: ConceptTagger
) -> None:
    for question, wording in (
        ("What joins left and right?", "What lies between right and left?"),
        ("What breaks the mandible?", "What breaks the lower jaw?"),
        ("Who gets 5mg a day?", "Who gets 5 mg a day?"),
    ):
        assert fault_of(ask(question), question, wording, tagger) is None


def test_a_name_inside_a_longer_one_is_left_alone(tagger: ConceptTagger) -> None:
    for text in (
        "What does ST depression mean?", "Who founded the Depression House?",
        "What is behind file MR-depression-7?", "Who reads depression@ward.example?",
    ):
        assert synonym_wordings(text, tagger, untouched=()) == ()
    assert synonym_wordings("What causes depression?", tagger, untouched=())


def test_a_word_without_end_is_looked_at_once(tagger: ConceptTagger) -> None:
    """A scan in base64, a ruled line, or a script that sets no spaces."""
    import time

    started = time.process_time()
    for blob in ("a" * 20_000, "_" * 20_000):
        assert not synonym_wordings(f"{blob} x depression y {blob}", tagger, untouched=())
    assert synonym_wordings(f"{blob} of depression in {blob}", tagger, untouched=())
    assert time.process_time() - started < 1.0


def test_the_other_country_s_spelling_is_another_wording() -> None:
    concept = Concept(
        concept_id="X:1", name="Hemorrhage", synonyms=("haemorrhage",), exact=("haemorrhage",)
    )
    hierarchy = ConceptHierarchy.from_concepts([concept], source="x").with_forget_roots(["X:1"])
    (wording,) = synonym_wordings(
        "What follows a haemorrhage?", ConceptTagger(hierarchy), untouched=()
    )
    assert wording == "What follows a Hemorrhage?"


def test_synonyms_never_touch_an_identifier(maker: Paraphraser) -> None:
    record = marked("Which ward is Mr. Depression in?", "Depression")
    assert maker.of(record).made
    assert all("Depression" in other.prompt for other in maker.of(record).records)


def test_built_in_synonyms_keep_the_concept() -> None:
    """The list is edited by hand: each exact name must be found as its own concept again."""
    hierarchy = load_hierarchies(["builtin"])
    tagger = ConceptTagger(hierarchy.with_forget_roots([]))
    exact = [(concept, name) for concept in hierarchy.concepts() for name in concept.exact]
    assert len(exact) > 120
    lost = [name for concept, name in exact
            if [span.concept_id for span in tagger.tag(name)] != [concept.concept_id]]
    assert lost == []


def test_wordings_depend_on_the_record_alone(
    wordings: WordingSet, tagger: ConceptTagger
) -> None:
    """Were a record's wordings to move with its neighbours, its unit's vector would too."""
    questions = [f"Which drain is left after case {number}?" for number in range(6)]
    together = Paraphraser(wordings, tagger, max_per_record=3)
    made = {q: [r.prompt for r in together.of(ask(q)).records] for q in questions}
    for question in reversed(questions):
        alone = Paraphraser(wordings, tagger, max_per_record=3)
        assert [r.prompt for r in alone.of(ask(question)).records] == made[question]
    # Different records use different wordings, so that all of them are used.
    assert len({prompt.replace(str(n), "") for n, q in enumerate(questions)
                for prompt in made[q]}) > 3


@pytest.mark.parametrize("most", [1, 2, 16])
def test_the_number_of_wordings_is_bounded(
    wordings: WordingSet, tagger: ConceptTagger, most: int
) -> None:
    maker = Paraphraser(wordings, tagger, max_per_record=most)
    made = maker.of(ask("Which medicine is given after appendectomy in the ward?"))
    assert 1 <= len(made.made) <= most
    assert len({other.prompt for other in made.records}) == len(made.made)


@settings(max_examples=60)
@given(st.text(min_size=1, max_size=80).filter(str.strip))
def test_any_text_is_worded_faithfully_or_not_at_all(text: str) -> None:
    tagger = ConceptTagger(HIERARCHY.with_forget_roots([]))
    record = ask(text)
    made = Paraphraser(load_wordings(), tagger, max_per_record=4).of(record)
    for other in made.records:
        assert other.answer == record.answer
        question, wording = taken_apart(record.prompt).question, taken_apart(other.prompt).question
        assert fault_of(record, question, wording, tagger) is None


def test_a_long_note_is_checked_in_time_that_grows_with_it(tagger: ConceptTagger) -> None:
    import time

    note = "What did Dr Lee say of a kidney stone, and of depression in Ward B? " * 2500
    started = time.process_time()
    assert fault_of(ask(note), note, note.replace("stone", "calculus"), tagger) is Fault.CONCEPT
    assert fault_of(ask(note), note, note.replace("Lee", "Eve", 1), tagger) is Fault.NAME
    assert time.process_time() - started < 5.0  # it took 20 s


def test_a_hostile_question_is_matched_in_bounded_time(maker: Paraphraser) -> None:
    import time

    started = time.monotonic()
    maker.of(ask("Which " + "in the " * (MAX_QUESTION_CHARS // 7 - 2) + "x"))
    maker.of(ask("Which " + "is the in the " * 4000))
    slow = Rewrite(question="{a} of {b} of {c} x", wordings=("{a} {b} {c}",))
    assert slow.apply("of " * 4000) == ()
    assert _numbers("a" * 50_000 + " 5 mg") == {"5mg": 1}
    assert time.monotonic() - started < 5.0


PACKAGED = packaged_text()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[[kind]\nname = 1", "WORDINGS_SYNTAX"),
        ("x = 1", "WORDINGS_INVALID"),
        ('[[kind]]\nname = "Upper"', "WORDINGS_INVALID"),
        ('[[kind]]\nname = "a"\nwords = ["x"]', "WORDINGS_INVALID"),
        ('[[kind]]\nname = "a"\n[[kind]]\nname = "a"', "WORDINGS_INVALID"),
        ('[[kind]]\nname = "a"\n[[kind.rewrite]]\nquestion = "Which {x}"\n'
         'wordings = ["What {y}?"]', "WORDINGS_FIELD_UNKNOWN"),
        ('[[kind]]\nname = "a"\n[[kind.rewrite]]\nquestion = "Which {x} in {y}"\n'
         'wordings = ["What {x}?"]', "WORDINGS_FIELD_UNKNOWN"),
        ('[[kind]]\nname = "a"\n[[kind.rewrite]]\nquestion = "{w} a {x} b {y} c {z}"\n'
         'wordings = ["{w} {x} {y} {z}"]', "WORDINGS_FIELD_UNKNOWN"),
        ('[[kind]]\nname = "a"\n[[kind.rewrite]]\nquestion = "{x}{y}"\nwordings = ["{y} {x}"]',
         "WORDINGS_FIELD_UNKNOWN"),
        (PACKAGED.replace("{question}\nIn other", "{query}\nIn other"), "WORDINGS_FIELD_UNKNOWN"),
    ],
)
def test_bad_wordings_are_refused(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "w.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Misconfigured) as caught:
        load_wordings(path)
    assert caught.value.code == code


def test_the_packaged_wordings_can_be_edited(tmp_path: Path, wordings: WordingSet) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(PACKAGED.replace("A colleague asks", "Sister asks"), encoding="utf-8-sig")
    assert load_wordings(path) != wordings
    path.write_text(PACKAGED, encoding="utf-8")
    assert load_wordings(path) == wordings
    with pytest.raises(Misconfigured, match="WORDINGS_MISSING"):
        load_wordings(tmp_path / "none.toml")


def test_no_packaged_wording_is_dropped_whatever_stands_in_its_fields(
    wordings: WordingSet, tagger: ConceptTagger
) -> None:
    filled = {"case": "A child is pale."}
    for rewrite in (rewrite for kind in wordings.kinds for rewrite in kind.rewrite):
        question = re.sub(r"\{(\w+)\}", lambda f: filled.get(f[1], f"x{f[1]}"), rewrite.question)
        for wording in rewrite.apply(question):
            assert fault_of(ask(question), question, wording, tagger) is None, wording


def test_a_value_is_never_looked_into_for_fields(maker: Paraphraser) -> None:
    question = "Which {where} is kept in the {what}?"
    made = maker.of(ask(question))
    assert made.made
    assert all("{where}" in o.prompt and "{what}" in o.prompt for o in made.records)
