"""Attacks by the app bundle, which a coordinator ships to every hospital; real bundles (FAB)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_files

from medunlearn_client.bundle_check import require_stub_bundle
from medunlearn_common.errors import Misconfigured

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "medunlearn-stub"
version = "0.1.0"
description = "stub"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "medunlearn"
fab-include = [{include}]
[tool.flwr.app.components]
serverapp = "medunlearn_server.flower_app:app"
clientapp = "{client}"
[tool.flwr.app.config]
"""
INSTALLED = "medunlearn_client.flower_app:app"
EVIL = b"""
import os
open(os.environ["MARK"], "a").write("the coordinator's code ran at the hospital")
from flwr.clientapp import ClientApp
app = ClientApp()
"""
SHADOW = {"medunlearn_client/__init__.py": b"", "medunlearn_client/flower_app.py": EVIL}


def bundle(files: dict[str, bytes] | None = None, *, client: str = INSTALLED) -> bytes:
    files = files or {}
    include = ", ".join(f'"{name}"' for name in ("pyproject.toml", *files))
    project = PROJECT.format(include=include, client=client).encode()
    return build_fab_from_files({"pyproject.toml": project, **files})[0]


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("cut", [False, True])
def test_a_bundle_that_does_not_decompress_is_refused(kind: int, cut: bool) -> None:
    """Its bytes come from the coordinator: zlib's own error was none of ours."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        archive.writestr("pyproject.toml", PROJECT.encode() * 40)
        info = archive.getinfo("pyproject.toml")
    data = bytearray(stream.getvalue())
    start = info.header_offset + 30 + len(info.filename)
    data[start : start + info.compress_size] = b"" if cut else b"\xff" * info.compress_size
    with pytest.raises(Misconfigured, match="BUNDLE_FORM"):
        require_stub_bundle(bytes(data))


def test_a_bundle_with_a_file_without_a_name_is_refused() -> None:
    stream, member = io.BytesIO(bundle()), zipfile.ZipInfo()
    member.filename = ""
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(member, b"import os")
    with pytest.raises(Misconfigured, match="BUNDLE_HOLDS_CODE"):
        require_stub_bundle(stream.getvalue())


def test_a_stub_is_accepted_and_pins_hold() -> None:
    stub = bundle()
    digest = hashlib.sha256(stub).hexdigest()
    require_stub_bundle(stub)
    require_stub_bundle(stub, pinned=("0" * 64, digest))
    with pytest.raises(Misconfigured, match="BUNDLE_UNKNOWN"):
        require_stub_bundle(stub, pinned=("0" * 64,))


@pytest.mark.parametrize(("files", "client", "code"), [
    (SHADOW, INSTALLED, "BUNDLE_HOLDS_CODE"),
    ({"grpc.py": EVIL}, INSTALLED, "BUNDLE_HOLDS_CODE"),  # hides a library, not us
    ({"evil.py": EVIL}, "evil:app", "BUNDLE_HOLDS_CODE"),
    ({"data.json": b"{}"}, INSTALLED, "BUNDLE_HOLDS_CODE"),  # a stub has no data either
    ({}, "antigravity:app", "BUNDLE_COMPONENTS"),
])
def test_a_bundle_that_is_more_than_a_stub_is_refused(
    files: dict[str, bytes], client: str, code: str
) -> None:
    with pytest.raises(Misconfigured, match=code):
        require_stub_bundle(bundle(files, client=client))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 nothing", b"x" * (2 << 20), bundle()[:-30]])
def test_a_damaged_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(Misconfigured, match="BUNDLE_FORM"):
        require_stub_bundle(data)


# What Flower's app process does with a bundle, with and without the hospital's guard.
LOAD = """
import hashlib, json, os, sys
from pathlib import Path
from flwr.app import Context, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime import run_clientapp as flower
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
if sys.argv[2] == "guarded":
    from medunlearn_common.flower_records import from_records
    from medunlearn_client.service.app_process import BundleGuard, guard_flower
    guard_flower(BundleGuard(pinned=()))
fab = Path(sys.argv[1]).read_bytes()
flower.install_from_fab(fab, skip_prompt=True)
load = flower.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
app = load("medunlearn/medunlearn-stub", "0.1.0", hashlib.sha256(fab).hexdigest())
if sys.argv[2] == "guarded":
    asked = FlowerMessage(RecordDict(), dst_node_id=1, message_type="train.sealed")
    answer = app(asked, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(),
                                run_config={}))
    error = flower.Error(2, "KeyError: 'Jane Roe'")
    print(json.dumps({"fields": dict(from_records(answer.content).fields),
                      "reason": str(error.reason)}))
"""


def test_a_bundle_that_shadows_the_installed_package_runs_in_plain_flower_and_not_here(
    tmp_path: Path
) -> None:
    fab, mark = tmp_path / "evil.fab", tmp_path / "mark"
    fab.write_bytes(bundle(SHADOW))

    def load(how: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = {
            **os.environ, "PYTHONPATH": path, "MARK": str(mark), "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_HOME": str(tmp_path / how), "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        return subprocess.run([sys.executable, "-c", LOAD, str(fab), how], env=environment,
                              capture_output=True, text=True, check=False)

    plain = load("plain")
    assert mark.exists(), plain.stderr[-2000:]  # the attack is real
    mark.unlink()
    guarded = load("guarded")
    assert guarded.returncode == 0, guarded.stderr[-2000:]
    found = json.loads(guarded.stdout.splitlines()[-1])
    assert found == {"fields": {"code": "BUNDLE_HOLDS_CODE"}, "reason": "None"}
    assert not mark.exists()
    assert not (tmp_path / "guarded" / "apps").exists()  # not even written to disk


def test_another_flower_than_the_pinned_one_starts_nothing(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    from flwr.supernode.runtime import run_clientapp

    from medunlearn_client.service.app_process import BundleGuard, guard_flower

    for name in ("install_from_fab", "get_load_client_app_fn", "Error"):
        with monkeypatch.context() as patch:
            for kept in ("install_from_fab", "get_load_client_app_fn", "Error"):
                patch.setattr(run_clientapp, kept, getattr(run_clientapp, kept))  # put back after
            patch.delattr(run_clientapp, name)
            with pytest.raises(Misconfigured, match="FLOWER_VERSION"):
                guard_flower(BundleGuard(pinned=()))
