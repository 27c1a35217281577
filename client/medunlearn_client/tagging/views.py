"""Tagged records for the eye: in a terminal, as plain text, and as one HTML page.

Guarantees:
    A record's text is shown, never run: HTML is escaped, and control characters, which could
    drive a terminal or turn the direction of reading, are replaced by visible signs, one for
    one, so that offsets hold. The page needs no network and holds no script.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from rich.text import Text

from medunlearn_client.records import Record
from medunlearn_client.tagging.spans import Assertion, ConceptSpan
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.levels import ConceptLevel

_VISIBLE: Final = str.maketrans(
    {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
    | {0x7F: "\u2421"}
    | dict.fromkeys(
        (*range(0x80, 0xA0), *range(0x200B, 0x2010), *range(0x2028, 0x202F),
         *range(0x2066, 0x206A), 0x061C, 0xFEFF), "\ufffd"
    )
)
_LEVEL_STYLE: Final = {
    ConceptLevel.FUNDAMENTAL: "cyan",
    ConceptLevel.GENERAL: "green",
    ConceptLevel.SPECIALTY: "yellow",
    ConceptLevel.TARGET: "bold white on red",
}
_ASSERTION_STYLE: Final = {
    Assertion.AFFIRMED: "",
    Assertion.POSSIBLE: " underline",
    Assertion.NEGATED: " strike",
    Assertion.FAMILY: " italic",
}


@dataclass(frozen=True, kw_only=True)
class TaggedRecord:
    """A record with its mentions, in reading order and without overlaps."""

    record: Record = field(repr=False)
    spans: tuple[ConceptSpan, ...]


def visible(text: str) -> str:
    """The text, of the same length, with control characters as visible signs."""
    return text.translate(_VISIBLE)


def coloured(tagged: TaggedRecord) -> Text:
    """The record's text for a terminal: colour is the level, line style the assertion."""
    text = Text(visible(tagged.record.text))
    for span in tagged.spans:
        style = _LEVEL_STYLE[span.level] + _ASSERTION_STYLE[span.assertion]
        text.stylize(style, span.start, span.end)
    return text


def marked(tagged: TaggedRecord) -> str:
    """The same without colours: ``[hernia|4]``, ``[fever|2 negated]``."""
    pieces = []
    for part, span in _parts(tagged):
        shown = visible(part)
        if span is not None:
            said = "" if span.assertion is Assertion.AFFIRMED else f" {span.assertion.value}"
            shown = f"[{shown}|{int(span.level)}{said}]"
        pieces.append(shown)
    return "".join(pieces)


def legend() -> Text:
    """What the colours and line styles mean."""
    text = Text("levels: ")
    for level, style in _LEVEL_STYLE.items():
        text.append(f"{int(level)} {level.name.lower()}", style=style)
        text.append("  ")
    for assertion, style in _ASSERTION_STYLE.items():
        if style:
            text.append(assertion.value, style=style.strip())
            text.append("  ")
    return text


def page(records: Iterable[TaggedRecord], hierarchy: ConceptHierarchy, *, title: str) -> str:
    """One self-contained HTML page; hovering over a mention shows its concept."""
    cards = "\n".join(_card(tagged, hierarchy) for tagged in records)
    return _PAGE.format(title=escape(visible(title)), style=_STYLE, legend=_LEGEND, cards=cards)


def _card(tagged: TaggedRecord, hierarchy: ConceptHierarchy) -> str:
    body = "".join(
        escape(visible(part)) if span is None else _mark(part, span, hierarchy)
        for part, span in _parts(tagged)
    )
    return (
        f'<article><h2>{escape(visible(tagged.record.record_id))}</h2>'
        f'<p class="text">{body}</p></article>'
    )


def _mark(part: str, span: ConceptSpan, hierarchy: ConceptHierarchy) -> str:
    concept = hierarchy.get(span.concept_id)
    name = concept.name if concept is not None else "singles the patient out"
    said = f"{span.concept_id} {name}: level {int(span.level)}, {span.assertion.value}"
    return (
        f'<mark class="l{int(span.level)} {span.assertion.value}" '
        f'title="{escape(visible(said))}">{escape(visible(part))}</mark>'
    )


def _parts(tagged: TaggedRecord) -> Iterator[tuple[str, ConceptSpan | None]]:
    """The text in pieces, with the mention that each is, or None."""
    text, done = tagged.record.text, 0
    for span in _disjoint(tagged.spans):
        yield text[done : span.start], None
        yield text[span.start : span.end], span
        done = span.end
    yield text[done:], None


def _disjoint(spans: Sequence[ConceptSpan]) -> Iterator[ConceptSpan]:
    done = 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if span.start >= done:
            yield span
            done = span.end


_STYLE = """\
body { font: 16px/1.6 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1d2733; background: #fbfbfa; }
h1 { font-size: 1.4rem; }
h2 { font-size: .8rem; color: #5b6770; margin: 0; overflow-wrap: anywhere; }
article { border-top: 1px solid #d9dee2; padding: .8rem 0; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; }
mark { border-radius: .2em; padding: 0 .15em; color: inherit; }
  .l1 { background: #dceef5; } .l2 { background: #dff0dc; }
.l3 { background: #fbeec2; } .l4 { background: #b3261e; color: #fff; }
.possible { text-decoration: underline dotted; } .negated { text-decoration: line-through; }
.family { font-style: italic; border-bottom: 2px solid currentColor; }
@media (prefers-color-scheme: dark) { body { background: #14181c; color: #e3e7ea; }
  .l1 { background: #17414f; } .l2 { background: #234620; } .l3 { background: #55450e; } }
"""

_LEGEND = "<p>" + " ".join(
    f'<mark class="l{int(level)}">{int(level)} {level.name.lower()}</mark>'
    for level in ConceptLevel
) + ' <mark class="possible">possible</mark> <mark class="negated">negated</mark> ' + (
    '<mark class="family">of a relative</mark></p>'
)

_PAGE = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style></head>
<body><h1>{title}</h1>
{legend}
{cards}
</body></html>
"""
