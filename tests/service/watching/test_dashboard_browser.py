"""The dashboard in a real browser: quiet in dark and light, narrow and wide; updates itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from watch_lab import RUN, Lab, served, view_at, watched

from medunlearn_server.checkpoints import Checkpoint
from medunlearn_server.service.runs_db import RunsDb
from medunlearn_server.watching.web import dashboard

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr",
    # Nothing may leave the machine, whatever a page asks for.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
HOSTILE = '"><script>document.title="owned"</script><img src=x onerror=fetch("//e.invalid")>'
WAIT_S = 240
KEEP = os.environ.get("MEDUNLEARN_PICTURES", "")
"""A folder for the screenshots, for whoever wants to look at them."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What the browser made of a page."""

    dom: str
    console: list[str]
    requested: list[str]
    colours: set[tuple[int, int, int]]
    width: int


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser found (looked for {', '.join(NAMES)})")
    return found


def visit(
    browser: str, address: str, folder: Path, *, width: int = 1280, budget_ms: int = 1500,
    flags: tuple[str, ...] = (),
) -> Visit:
    """Opens a page once: picture, final document, console and everything it asked for."""
    log, picture = folder / "net.json", folder / "page.png"
    shot = subprocess.run(
        [browser, *QUIET, *flags, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}",
         "--net-log-capture-mode=Everything", f"--window-size={width},2600",
         f"--virtual-time-budget={budget_ms}", f"--screenshot={picture}", "--dump-dom", address],
        capture_output=True, text=True, timeout=WAIT_S, check=True,
    )
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    urls = {str(event["params"].get("url", "")) for event in events
            if event.get("params", {}).get("initiator", "not an origin") != "not an origin"}
    with Image.open(picture) as image:
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24) or []
        size = image.width
    if KEEP:
        shutil.copy(picture, Path(KEEP) / f"{folder.name}.png")
    return Visit(
        dom=shot.stdout, requested=sorted(urls), width=size,
        console=[line for line in shot.stderr.splitlines() if "CONSOLE" in line],
        colours={colour for _, colour in colours},
    )


@pytest.mark.parametrize(("name", "width", "flags", "paper"), [
    ("light", 1280, (), (0xF6, 0xF7, 0xF9)),
    ("dark", 1280, ("--force-dark-mode",), (0x11, 0x16, 0x1D)),
    ("narrow", 500, (), (0xF6, 0xF7, 0xF9)),
])
def test_a_run_in_progress_looks_as_it_should(
    browser: str, lab: Lab, tmp_path: Path, name: str, width: int, flags: tuple[str, ...],
    paper: tuple[int, int, int],
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with watched(lab.halfway) as port:
        origin = f"http://127.0.0.1:{port}"
        seen = visit(browser, f"{origin}/runs/{RUN}", folder, width=width, flags=flags)
    assert seen.console == []
    assert seen.requested and all(url.startswith(origin) for url in seen.requested)
    assert seen.width == width and paper in seen.colours
    assert ">live<" in seen.dom, "the script has run and got an answer"
    assert 'id="theme" type="button">' in seen.dom
    assert "data-since" in seen.dom and ">–</span>" not in seen.dom, "the clock ticks"


def test_the_page_updates_itself(browser: str, lab: Lab, tmp_path: Path) -> None:
    """The first answer shows round 5; every later one the end: the page must get there alone."""
    pages = [view_at(folder)
             for folder in (lab.halfway, lab.finished)]
    looks = iter([pages[0]])
    with served(dashboard(lambda: next(looks, pages[1]))) as port:
        seen = visit(browser, f"http://127.0.0.1:{port}/runs/{RUN}", tmp_path, budget_ms=6000)
    assert seen.console == []
    assert "all planned rounds are done" in seen.dom
    assert "<title>lab-0123456789ab · finished" in seen.dom


def test_hostile_names_are_text(browser: str, lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    shutil.copytree(lab.finished, folder)
    path = folder / "runs" / RUN / "checkpoint.bin"
    checkpoint = Checkpoint.from_bytes(path.read_bytes())
    text = json.dumps(dict(checkpoint.values))
    for name in ("hospital-1", "SITE_GONE", "rounds_done", RUN):
        text = text.replace(f'"{name}"', json.dumps(HOSTILE))
    path.write_bytes(Checkpoint(values=json.loads(text), arrays=checkpoint.arrays).to_bytes())
    registry = RunsDb(folder / "state" / "runs.db")
    registry.add(HOSTILE, plan_digest=HOSTILE)
    registry.move(HOSTILE, "failed", failure_code=HOSTILE)
    registry.close()
    with watched(folder) as port:
        for number, page in enumerate(("/", f"/runs/{RUN}")):
            place = tmp_path / f"hostile-{number}"
            place.mkdir()
            seen = visit(browser, f"http://127.0.0.1:{port}{page}", place)
            assert seen.console == [], page
            assert all("e.invalid" not in url for url in seen.requested)
            assert "owned</title>" not in seen.dom and "onerror" not in seen.dom
            assert "unreadable" in seen.dom


def test_another_site_can_neither_read_nor_frame_it(
    browser: str, lab: Lab, tmp_path: Path
) -> None:
    """A page of somebody else in the same browser, and one whose name was rebound to loopback."""
    place = tmp_path / "attack"
    place.mkdir()
    with watched(lab.finished) as port:
        attack = tmp_path / "attack.html"
        attack.write_text(
            f"<iframe id=f src='http://127.0.0.1:{port}/'></iframe><pre id=o>nothing</pre><script>"
            f"fetch('http://127.0.0.1:{port}/runs/{RUN}').then(a => a.text())"
            ".then(t => { o.textContent = 'STOLEN ' + t.length; })"
            ".catch(e => { o.textContent = 'refused'; });</script>")
        seen = visit(browser, attack.as_uri(), place)
        assert "refused" in seen.dom and "STOLEN " not in seen.dom.split("<script>")[0]
        assert any("frame" in line.lower() for line in seen.console)
        place = tmp_path / "rebound"
        place.mkdir()
        seen = visit(
            browser, f"http://hospital.example:{port}/runs/{RUN}", place,
            flags=("--host-resolver-rules=MAP hospital.example 127.0.0.1",))
    assert "HOST_REFUSED" in seen.dom and "Forget gap" not in seen.dom


