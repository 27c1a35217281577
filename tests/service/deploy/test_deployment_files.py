"""What the files under deploy/ promise, on any machine; `make deploy-check` asks real tools too."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from medunlearn_common.deployment import UnitSettings, service_unit
from medunlearn_common.deployment.probe import probe
from medunlearn_common.errors import Misconfigured
from medunlearn_common.keeping.catalogue import Role

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
ROLES: tuple[Role, ...] = ("coordinator", "hospital")
CLUSTER = tuple(DEPLOY.glob("kubernetes/*/*.yaml"))
# systemd's own judgement, 0 to 10; above this a line was lost.
MOST_EXPOSED = 2.0


def documents(kind: str) -> list[Any]:
    """All objects of a kind in the manifests."""
    found = [one for path in CLUSTER for one in yaml.safe_load_all(path.read_text())]
    return [one for one in found if one["kind"] == kind]


def whole_sets() -> list[Any]:
    return [one for one in documents("StatefulSet") if "selector" in one["spec"]]


def units(tmp_path: Path) -> list[Path]:
    made = []
    for role in ROLES:
        path = tmp_path / f"medunlearn-{role}.service"
        path.write_text(service_unit(role, UnitSettings(
            folder=tmp_path, user="daemon", command=Path("/bin/true"), readable=(tmp_path,))))
        made.append(path)
    return made


@pytest.mark.parametrize("role", ROLES)
def test_an_image_runs_as_nobody_special_from_a_pinned_base(role: Role) -> None:
    text = (DEPLOY / "containers" / f"{role}.Containerfile").read_text()
    assert re.search(r"^ARG PYTHON_BASE=\S+@sha256:[0-9a-f]{64}$", text, re.M)
    assert text.count("FROM ${PYTHON_BASE}") == 2  # the compiler's stage is left behind
    last_user = re.findall(r"^USER (\S+)", text, re.M)[-1]
    assert last_user == "10001:10001"
    assert "ADD " not in text and "--constraint constraints.txt" in text


def test_a_builder_is_given_no_keys_and_no_data() -> None:
    lines = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line for line in lines if line.startswith("!")} == {
        "!common", "!server", "!client", "!simulation", "!constraints.txt", "!pyproject.toml",
        "!README.md", "!LICENSE"}


def test_compose_hospitals_cannot_reach_each_other_or_the_world() -> None:
    document = yaml.safe_load((DEPLOY / "compose" / "rehearsal.yaml").read_text())
    assert all(network["internal"] is True for network in document["networks"].values())
    hospitals = {n: s for n, s in document["services"].items() if n.startswith("hospital")}
    assert len(hospitals) == 3
    assert [service["networks"] for service in hospitals.values()] == [[n] for n in hospitals]
    for service in document["services"].values():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("ports") and not service.get("privileged")


def test_pods_have_no_rights_that_they_do_not_need() -> None:
    assert len(whole_sets()) == 2
    for one in whole_sets():
        assert one["spec"]["replicas"] == 1
        pod = one["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert container["livenessProbe"]["exec"]["command"][:3] == [
                "python", "-m", "medunlearn_common.deployment.probe"]


def test_nobody_calls_a_hospital_in_a_cluster() -> None:
    assert [s["metadata"]["name"] for s in documents("Service")] == ["coordinator"]
    policies = {p["metadata"]["name"]: p["spec"] for p in documents("NetworkPolicy")}
    assert policies["hospital"]["ingress"] == []
    assert policies["nothing-else"] == {
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert [rule["ports"] for rule in policies["coordinator"]["ingress"]] == [
        [{"port": 9443, "protocol": "TCP"}]]
    assert policies["coordinator"]["egress"] == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize("name", ["coordinator", "hospital", "hospital-gpu"])
def test_manifests_render(name: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(DEPLOY / "kubernetes" / name)],
                          capture_output=True, text=True, timeout=60, check=True)
    sets = [one for one in yaml.safe_load_all(done.stdout) if one["kind"] == "StatefulSet"]
    limits = sets[0]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) == name.endswith("-gpu")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_units_are_read_by_systemd_and_leave_little_open(tmp_path: Path) -> None:
    made = [str(path) for path in units(tmp_path)]
    verified = subprocess.run(["systemd-analyze", "verify", *made], capture_output=True,
                              text=True, timeout=60, check=True)
    assert verified.stderr == ""
    for path in made:
        judged = subprocess.run(["systemd-analyze", "security", "--offline=yes", path],
                                capture_output=True, text=True, timeout=60, check=True)
        exposure = re.search(r"exposure level .*: ([0-9.]+) ", judged.stdout)
        assert exposure is not None and float(exposure[1]) <= MOST_EXPOSED


def test_units_wait_before_a_node_comes_back(tmp_path: Path) -> None:
    """Sooner, the coordinator still takes the dead node for alive, and loses its messages."""
    for path in units(tmp_path):
        assert "\nRestartSec=20\n" in path.read_text()


@pytest.mark.parametrize("folder", ["/srv/a\nExecStartPre=/bin/sh", "srv", "/srv/a:/etc"])
def test_a_folder_name_brings_no_line_into_a_unit(folder: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        service_unit("hospital", UnitSettings(folder=Path(folder), command=Path("/bin/true")))
    assert refused.value.code == "UNIT_NAME"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["a b", "50% off", 'a"b', "a$HOME", "a\\b", "häuser"])
def test_a_strange_folder_name_is_read_back_as_it_is(tmp_path: Path, name: str) -> None:
    unit = tmp_path / "medunlearn-hospital.service"
    unit.write_text(service_unit("hospital", UnitSettings(
        folder=tmp_path / name, user="daemon", command=Path("/bin/true"))))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True,
                          text=True, timeout=60, check=True)
    assert done.stderr == ""


def test_a_probe_asks_this_machine_only() -> None:
    assert probe("http://192.0.2.1/healthz") == 2
    assert probe("file:///etc/passwd") == 2
    assert probe("http://127.0.0.1:9/healthz") == 1
