"""The wheel, as a stranger gets it: built, installed alone and used outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "medunlearn_client", "medunlearn_common", "medunlearn_server", "medunlearn_simulation",
)
SOURCES = {
    "medunlearn_client": "client", "medunlearn_common": "common",
    "medunlearn_server": "server", "medunlearn_simulation": "simulation",
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (CHECKOUT / "README.md").is_file():
        pytest.skip("hatchling needs the README that pyproject.toml names")
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=CHECKOUT, check=True, capture_output=True, timeout=120,
    )
    (built,) = out.glob("medunlearn-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the wheel's contents, put there by pip."""
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--target", str(target), str(wheel)],
        check=True, capture_output=True, timeout=120,
    )
    return target


def _outside(installed: Path, folder: Path, code: str) -> str:
    """Output of ``code`` with the installed wheel before all else, away from the checkout."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment["PYTHONPATH"] = str(installed)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, timeout=120,
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_packages_is_inside(wheel: Path) -> None:
    """Typing markers, hierarchies and templates too: code alone would start and then fail."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in SOURCES.items():
        assert f"{package}/py.typed" in names
        root = CHECKOUT / folder
        expected = {
            path.relative_to(root).as_posix()
            for path in (root / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert expected <= names
    assert any(name.endswith(".outline") for name in names)


def test_nothing_else_is_inside(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_licence_and_commands_are_declared(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (info,) = {n.split("/")[0] for n in archive.namelist() if ".dist-info" in n}
    assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
    entries = archive.read(f"{info}/entry_points.txt").decode()
    assert "medunlearn = medunlearn_common.cli:main" in entries
    assert "[medunlearn.commands]" in entries
    assert "License-Expression: Apache-2.0" in archive.read(f"{info}/METADATA").decode()


def test_packages_import_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        f"import importlib\nfor name in {PACKAGES!r}:\n"
        "    print(importlib.import_module(name).__file__)"
    )
    for line in _outside(installed, tmp_path, code).split():
        assert Path(line).is_relative_to(installed)


def test_data_files_load_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "from medunlearn_common.concepts import load_hierarchies\n"
        "print(len(load_hierarchies(['builtin'])))"
    )
    assert int(_outside(installed, tmp_path, code)) > 200


def test_command_line_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom medunlearn_common.cli import main\n"
        "sys.argv = ['medunlearn', '--help']\nmain()"
    )
    shown = _outside(installed, tmp_path, code)
    assert "simulate" in shown and "plan" in shown and "compare" in shown
