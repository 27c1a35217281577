"""The report in a real browser: it renders, runs its script and asks nobody for anything."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from medunlearn_simulation.compare import compare
from medunlearn_simulation.report import write_report
from medunlearn_simulation.result import load_result

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "result.json"
BROWSER_ITSELF = "not an origin"
NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    # Nothing may leave the machine, whatever a page asks for.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What the browser made of a page."""

    dom: str
    console: list[str]
    requested: list[str]
    picture: Path


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser found (looked for {', '.join(NAMES)})")
    return found


def visit(browser: str, page: Path, folder: Path, *, width: int = 1280) -> Visit:
    """Opens the page twice: for its final document, and for a picture and the network log."""
    folder.mkdir()
    common = [browser, *QUIET, f"--user-data-dir={folder / 'profile'}"]
    log, picture = folder / "net.json", folder / "page.png"
    shot = subprocess.run(
        [
            *common,
            f"--log-net-log={log}",
            "--net-log-capture-mode=Everything",
            f"--window-size={width},2400",
            f"--screenshot={picture}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    dom = subprocess.run(
        [*common, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    # The browser's own errands (clock, updates) have no page as their origin.
    asked = [
        event["params"]
        for event in events
        if event.get("params", {}).get("initiator", BROWSER_ITSELF) != BROWSER_ITSELF
    ]
    urls = {str(request.get("url", "")) for request in asked}
    return Visit(
        dom=dom.stdout,
        console=[line for line in shot.stderr.splitlines() if "CONSOLE" in line],
        requested=sorted(url for url in urls if not url.startswith("file:")),
        picture=picture,
    )


def test_bad_page_is_noticed(browser: str, tmp_path: Path) -> None:
    """Without this, a browser that reports nothing would pass every other test here."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<img src='http://report.invalid/a.png'>"
        "<script>fetch('https://other.invalid/'); throw new Error('broken')</script>"
    )
    seen = visit(browser, page, tmp_path / "visit")
    assert any("broken" in line for line in seen.console)
    assert seen.requested == ["http://report.invalid/a.png", "https://other.invalid/"]


@pytest.mark.parametrize("width", [1280, 500])
def test_report_renders_quietly(browser: str, tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    write_report(page, load_result(EXAMPLE))
    seen = visit(browser, page, tmp_path / "visit", width=width)
    assert seen.console == []
    assert seen.requested == []
    assert re.search(r'<button id="theme"[^>]*>(Dark|Light) mode</button>', seen.dom)
    assert 'id="theme" type="button" hidden' not in seen.dom, "the script has run"
    with Image.open(seen.picture) as picture:
        assert picture.width == width
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 24) or []
    shown = {colour for _, colour in colours}
    # the style was applied: bars before, after and of the retrained model, on the page's paper
    assert {(0x8B, 0x95, 0xA5), (0x00, 0x67, 0xA8), (0xD9, 0x8C, 0x00), (0xF6, 0xF7, 0xF9)} <= shown


def test_comparison_renders_quietly(browser: str, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    compare([EXAMPLE, EXAMPLE], html_path=page)
    seen = visit(browser, page, tmp_path / "visit")
    assert seen.console == []
    assert seen.requested == []
    assert "Runs side by side" in seen.dom
