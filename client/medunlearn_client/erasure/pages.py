"""Documents as HTML and PDF, in files whose names hold a request's number and nothing else.

PDF comes from ReportLab: BSD-licensed, pure Python, kept up for decades, and without the
system libraries that WeasyPrint needs; fpdf2 is under the LGPL. The font that ReportLab brings
knows western European letters only, so that for others a wider one is looked for where the
system keeps its fonts, or named by the caller; a character without a glyph is refused rather
than printed as a box. So is one of a script that is written from right to left: ReportLab sets the
letters as they lie in memory, so a name would stand there backwards, whatever the font.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterable
from functools import cache
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from unicodedata import bidirectional
from xml.sax.saxutils import escape

from jinja2 import Environment, PackageLoader, StrictUndefined

from medunlearn_client.erasure.documents import Document, Table
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically

DocumentKind = Literal["letter", "report"]
FONTS = ("Vera.ttf", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
"""Tried in this order; the first one comes with ReportLab."""

_MARGIN_MM = 20.0
_SMALL_PT, _BODY_PT, _TITLE_PT = 8, 10, 12
_LINE = "#999999"


def write_pages(
    document: Document, folder: Path, *, kind: DocumentKind, number: int, font: Path | None = None
) -> tuple[Path, Path]:
    """Writes ``letter-0007-2026-05-09.html`` and ``.pdf``, readable by their owner alone.

    Both are made before either is written. What was printed before stays as it is, for it may
    have been sent, or edited: another page of the same day gets a number of its own.

    Raises:
        Misconfigured: ERASURE_FONT, ERASURE_GLYPHS, OUT_NOT_A_FOLDER.
        Transient: WRITE_FAILED.
    """
    if folder.exists() and not folder.is_dir():
        raise Misconfigured("OUT_NOT_A_FOLDER", "--out is a file", "name a folder")
    html, pdf = render_html(document).encode(), render_pdf(document, font=font)
    places = _free_places(folder, f"{kind}-{number:04d}-{document.day.isoformat()}", html, pdf)
    for place, data in zip(places, (html, pdf), strict=True):
        write_atomically(place, data)
    return places


def _free_places(folder: Path, stem: str, html: bytes, pdf: bytes) -> tuple[Path, Path]:
    """The first pair of names that is free, or that holds these very pages already."""
    for count in itertools.count(1):
        name = stem if count == 1 else f"{stem}-{count}"
        places = folder / f"{name}.html", folder / f"{name}.pdf"
        if all(not place.exists() or place.read_bytes() == data
               for place, data in zip(places, (html, pdf), strict=True)):
            return places
    raise AssertionError("unreachable")


def render_html(document: Document) -> str:
    """One page that loads nothing from anywhere and runs no script."""
    style = _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    page = _environment().get_template("page.html.j2")
    return page.render(document=document, style=style, policy=policy)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("medunlearn_client.erasure"), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    folder = resources.files("medunlearn_client.erasure") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def render_pdf(document: Document, *, font: Path | None = None) -> bytes:
    """The document on A4.

    Raises:
        Misconfigured: ERASURE_FONT if the font cannot be used, ERASURE_GLYPHS if it lacks
            characters of the document, or some are written from right to left.
    """
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.platypus import SimpleDocTemplate

    _refuse_leftward(document)
    face = _face(document, font)
    target = BytesIO()
    # Invariant: the same document gives the same bytes, and no time of printing leaks.
    page = SimpleDocTemplate(
        target, pagesize=A4, title=document.title, author=document.sender, invariant=1,
        **dict.fromkeys(
            ("leftMargin", "rightMargin", "topMargin", "bottomMargin"), _MARGIN_MM * mm
        ),
    )
    page.build(_flow(document, face, page.width))
    return target.getvalue()


def _refuse_leftward(document: Document) -> None:
    leftward = {char for char in _characters(document) if bidirectional(char) in ("R", "AL")}
    if leftward:
        raise Misconfigured(
            "ERASURE_GLYPHS", f"{len(leftward)} of the characters are of a script that is written "
            "from right to left, and would be printed backwards",
            "write them in Latin letters",
        )


def _face(document: Document, font: Path | None) -> str:
    """Name of a font with every character of the document: the caller's, or the first of ours."""
    if font is not None:
        face = _registered(str(font))
        if face is None:
            raise Misconfigured(
                "ERASURE_FONT", "the font cannot be read as TrueType",
                "name another .ttf with --font",
            )
        candidates = [face]
    else:
        candidates = [face for face in map(_registered, FONTS) if face is not None]
    lacking = [_lacking(document, face) for face in candidates]
    for face, count in zip(candidates, lacking, strict=True):
        if not count:
            return face
    raise Misconfigured(
        "ERASURE_GLYPHS", f"no font at hand has {min(lacking, default=0)} of the characters",
        "name a TrueType font that has them with --font, for example one of Noto's",
    )


def _registered(source: str) -> str | None:
    """ReportLab's name for a font file, found by itself if it is no path; None if unusable."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFError, TTFont

    name = f"erasure-{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    try:
        pdfmetrics.registerFont(TTFont(name, source))
    except (TTFError, OSError, ValueError, LookupError):
        return None
    return name


def _texts(document: Document) -> Iterable[str]:
    yield from (document.title, document.sender, document.foot, *document.addressee)
    yield from document.paragraphs
    for table in document.tables:
        yield table.title
        yield from table.header
        for row in table.rows:
            yield from row


def _lacking(document: Document, face: str) -> int:
    """How many different characters of the document the font has no glyph for."""
    from reportlab.pdfbase import pdfmetrics

    known = pdfmetrics.getFont(face).face.charToGlyph
    return sum(ord(char) not in known for char in _characters(document))


def _characters(document: Document) -> set[str]:
    return {char for text in _texts(document) for char in text if not char.isspace()}


def _flow(document: Document, face: str, width: float) -> list[Any]:
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import HRFlowable, Paragraph, Spacer

    body = ParagraphStyle("body", fontName=face, fontSize=_BODY_PT, leading=1.4 * _BODY_PT,
                          spaceAfter=0.7 * _BODY_PT, splitLongWords=1)
    title = ParagraphStyle("title", body, fontSize=_TITLE_PT, leading=1.4 * _TITLE_PT)
    small = ParagraphStyle("small", body, fontSize=_SMALL_PT, leading=1.3 * _SMALL_PT)
    flow: list[Any] = [
        Paragraph(escape(document.sender), body), HRFlowable(width="100%", color=_LINE),
        Spacer(1, _TITLE_PT),
    ]
    if document.addressee:
        flow.append(Paragraph("<br/>".join(map(escape, document.addressee)), body))
    flow.append(Paragraph(document.day.isoformat(), ParagraphStyle("day", body, alignment=2)))
    flow.append(Paragraph(escape(document.title), title))
    flow.extend(Paragraph(escape(text), body) for text in document.paragraphs)
    for table in document.tables:
        flow.extend(_laid_out(table, title, small, width))
    if document.foot:
        flow.extend((Spacer(1, _TITLE_PT), Paragraph(escape(document.foot), small)))
    return flow


def _laid_out(table: Table, title: Any, small: Any, width: float) -> list[Any]:
    from reportlab.platypus import LongTable, Paragraph, Spacer

    headed = any(table.header)
    rows = (table.header, *table.rows) if headed else table.rows
    if not rows:
        return [Paragraph(escape(table.title), title)]
    cells = [[Paragraph(escape(cell), small) for cell in row] for row in rows]
    laid = LongTable(
        cells, colWidths=_widths(table, width), repeatRows=int(headed), splitInRow=1, hAlign="LEFT",
        style=[("LINEBELOW", (0, 0), (-1, -1), 0.4, _LINE), ("VALIGN", (0, 0), (-1, -1), "TOP"),
               ("LEFTPADDING", (0, 0), (-1, -1), 0)],
    )
    return [Paragraph(escape(table.title), title), laid, Spacer(1, _BODY_PT)]


def _widths(table: Table, width: float) -> list[float]:
    """Columns as wide as their longest text asks for, within bounds, adding up to ``width``."""
    longest = [
        min(50, max(12, *(len(row[place]) for row in (table.header, *table.rows))))
        for place in range(len(table.header))
    ]
    return [width * length / sum(longest) for length in longest]
