"""The checks of ``medunlearn hospital doctor``.

Guarantees:
    Records are read and counted; nothing of them is shown, and nothing is sent anywhere. The one
    connection is to the coordinator's gateway, with an empty request.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import psutil

from medunlearn_client.epsilon_total import EpsilonTotal
from medunlearn_client.joining.forget_check import forget_findings
from medunlearn_client.joining.own_keys import (
    NEXT_FOLDER,
    NODE_KEY,
    NODE_PUBLIC,
    read_node_key,
)
from medunlearn_client.joining.site_folder import FIRST_USE_FILE, stored_invitation
from medunlearn_client.policy import SitePolicy, how_to_decide, read_policy
from medunlearn_client.service.config import (
    HospitalConfig,
    HospitalPaths,
    read_hospital_config,
)
from medunlearn_client.service.node_link import NodeLink
from medunlearn_client.site_config import SiteConfig, read_site_config
from medunlearn_common.doctor import Check, Finding, ok, problem, warning
from medunlearn_common.enrolment import node_public_key, open_enrolment
from medunlearn_common.invitation import OpenedInvitation
from medunlearn_common.keeping import PartyMarks, require_no_store_lost
from medunlearn_common.model_files import model_digest, tokenizer_digest, weight_files
from medunlearn_common.roster import Root
from medunlearn_common.roster.trusted import ROOT_FILE
from medunlearn_common.shared_checks import (
    check_code,
    check_disk,
    check_gateway,
    check_modes,
    check_ports,
    check_roster,
    check_versions,
)
from medunlearn_common.trust_folder import POLICY_FILE, TRUST_FOLDER

_LIBRARIES = ("flwr", "torch", "transformers", "peft", "opacus", "cryptography")
_RECORDS = 50
_LET_IN_S = 90.0
_FULL, _TIGHT = 1.0, 0.6  # share of a memory that weights alone may take


def hospital_checks(folder: Path, *, now: float, offline: bool = False) -> Mapping[str, Check]:
    """All checks of one hospital's folder, by topic, in the order in which they are mended.

    Raises:
        Misconfigured: HOSPITAL_CONFIG_ codes, INVITATION_MISSING: without these two nothing else
            can be looked at.
        Rejected: As :func:`stored_invitation`.
    """
    config, opened = read_hospital_config(folder), stored_invitation(folder)
    checks: dict[str, Check] = {
        "versions": lambda: (
            *check_versions(_LIBRARIES),
            *check_code(opened.invitation.code_digest, opened.invitation.package_version)),
        "files": lambda: (*check_modes(folder), *check_disk(folder)),
        "stores": lambda: _stores(folder),
        "trust": lambda: _trust(folder, opened),
        "roster": lambda: check_roster(
            folder, now=now, join="send the .enrolment file to the coordinator; with the roster "
            "that comes back: medunlearn hospital join roster.dsse"),
        "policy": lambda: _policy(folder, opened),
        "model": lambda: _model(folder, opened),
        "memory": lambda: _memory(folder, config),
        "data": lambda: _data(folder),
        "erasure": lambda: _erasure(folder),
        "ports": lambda: _ports(config, running=_runs(folder)),
        "node": lambda: _node(folder, now),
        "network": lambda: check_gateway(
            *split(config.coordinator.address), folder / "tls" / "ca.pem", now=time.time),
    }
    if offline:
        del checks["network"]
    return checks


def split(address: str) -> tuple[str, int]:
    """Host and port of a checked ``host:port``."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _stores(folder: Path) -> Iterator[Finding]:
    require_no_store_lost(folder)
    yield ok("STORES", "no ledger, envelope store or audit log was lost")


def _trust(folder: Path, opened: OpenedInvitation) -> Iterator[Finding]:
    pinned = Root.from_bytes((folder / TRUST_FOLDER / ROOT_FILE).read_bytes())
    if pinned != opened.root:
        yield warning("ROOT_HANDED_OVER", "the pinned root is not the invitation's",
                      "right if the consortium handed over to a new root; else telephone it")
    if (folder / TRUST_FOLDER / FIRST_USE_FILE).exists():
        yield warning(
            "TRUST_ON_FIRST_USE", f"nobody compared the fingerprint: {opened.fingerprint}",
            "telephone the coordinator; if the words are the same, delete trust/first_use")
    else:
        yield ok("FINGERPRINT", f"{opened.fingerprint} was compared")
    key = folder / "node" / NODE_KEY
    if not key.exists():
        yield problem("NODE_KEY_MISSING", "there is no node key: this hospital has left",
                      "to come back: medunlearn hospital rotate while the roster names it, else "
                      "a new invitation and medunlearn hospital init --after")
        return
    public = node_public_key(read_node_key(key).public_key())
    if (folder / "node" / NODE_PUBLIC).read_bytes().split()[:2] != public.split():
        yield problem("NODE_KEY_OTHER", "node.pub is not the public half of node.key",
                      "medunlearn hospital rotate --no-identity")
    else:
        yield ok("NODE_KEY", "the node's key pair is sound")
    for path in sorted(folder.glob("*.enrolment")):
        yield ok("ENROLMENT", f"{path.name}: {open_enrolment(path.read_bytes()).fingerprint}")
    if (folder / NEXT_FOLDER).exists():
        yield warning("ROTATION_PENDING", "new keys wait to come into force",
                      "after the coordinator's `enrol`: medunlearn hospital join ROSTER")


def _policy(folder: Path, opened: OpenedInvitation) -> Iterator[Finding]:
    policy: SitePolicy = read_policy(folder / TRUST_FOLDER / POLICY_FILE)
    yield ok("POLICY", f"at most epsilon {policy.privacy.max_epsilon:g} a run, "
             f"{policy.privacy.max_total_epsilon:g} in all")
    if policy.privacy.allow_no_noise:
        yield warning("POLICY_NO_NOISE", "plans without noise are accepted; they protect nobody",
                      "set allow_no_noise = false in trust/policy.toml")
    coordinator = opened.invitation.coordinator
    if policy.federation.coordinators and coordinator not in policy.federation.coordinators:
        yield problem("POLICY_COORDINATOR", f"the policy does not accept {coordinator}",
                      "name it in [federation] coordinators")
    total, lost = EpsilonTotal.of(folder, policy), PartyMarks(folder).history_lost
    if lost is not None and not total.decided:
        yield warning("POLICY_EPSILON_TOTAL", f"epsilon of all runs: {total}; every plan with "
                      "noise is refused", how_to_decide(lost))
    else:
        yield _epsilon_left(policy, total)


def _epsilon_left(policy: SitePolicy, total: EpsilonTotal) -> Finding:
    """Whether the next run would still be accepted: else only its refusal says so.

    A warning even where nothing is left: that is how the last of the agreed runs looks.
    """
    most, shown = policy.privacy.max_epsilon, f"epsilon of all runs: {total}"
    hint = ("runs accepted so far go on. For another one the policy's owner decides: a larger "
            "max_total_epsilon in trust/policy.toml, ")
    if not total.left:
        return warning("POLICY_EPSILON_TOTAL", f"{shown}; nothing is left",
                       f"{hint}or none; a plan with noise is refused until then")
    if not total.leaves(most):
        return warning(
            "POLICY_EPSILON_TOTAL",
            f"{shown}; a run may ask for {most:g}, and {total.left:g} is left",
            f"{hint}or a plan of at most epsilon {total.left:g} from the coordinator")
    return ok("EPSILON_LEFT", shown)


def _model_folder(site: SiteConfig) -> Path:
    """The model's folder; a hub id is looked up in the local cache, and fetched if need be."""
    from medunlearn_client.models import resolve_folder

    return resolve_folder(site.model_folder)


def _model(folder: Path, opened: OpenedInvitation) -> Iterator[Finding]:
    site, invitation = read_site_config(folder), opened.invitation
    if not site.model_folder:
        yield problem("MODEL_UNSET", "no base model is named",
                      f"set model_folder in site.toml{_wanted(invitation.model)}")
        return
    place = _model_folder(site)
    from medunlearn_client.models import check_weight_files, load_tokenizer

    check_weight_files(place)
    load_tokenizer(place)
    policy = read_policy(folder / TRUST_FOLDER / POLICY_FILE)
    for what, here, invited, known in (
        ("base model", model_digest(place), invitation.model_digest, policy.known.models),
        ("tokenizer", tokenizer_digest(place), invitation.tokenizer_digest,
         policy.known.tokenizers),
    ):
        code = what.split()[-1].upper()
        if invited and here != invited:
            yield problem(f"{code}_DIFFERS", f"the {what} here is {here[:12]}, the federation uses "
                          f"{invited[:12]}", f"install the same files{_wanted(invitation.model)}")
        elif known and here not in known:
            yield problem(f"{code}_NOT_IN_POLICY", f"trust/policy.toml does not know the {what} "
                          f"{here[:12]}", f"add {here} to [known], or install the other one")
        else:
            yield ok(f"{code}_DIGEST", f"{what} {here}" + (" as invited" if invited else ""))


def _wanted(name: str) -> str:
    return f": {name}" if name else ""


def _memory(folder: Path, config: HospitalConfig) -> Iterator[Finding]:
    """The worker's device, and whether the weights fit there with room to compute."""
    import torch

    from medunlearn_client.models import resolve_device

    device = resolve_device(config.worker.device)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        available = min(free, int(total * config.worker.gpu_memory_fraction))
        name = torch.cuda.get_device_name(device)
        yield ok("GPU", f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    else:
        available = psutil.virtual_memory().available
        yield warning("NO_GPU", f"no GPU is used; {available / 2**30:.1f} GiB of memory free",
                      "right for small models; else set [worker] device and check the driver "
                      "(nvidia-smi)")
    site = read_site_config(folder)
    if not site.model_folder:
        return
    weights = sum(path.stat().st_size for path in weight_files(_model_folder(site)))
    shown = f"weights of {weights / 2**30:.2f} GiB, {available / 2**30:.1f} GiB available"
    if weights > _FULL * available:
        yield problem("MEMORY_SHORT", shown, "a smaller model, or a device with more memory")
    elif weights > _TIGHT * available:
        yield warning("MEMORY_TIGHT", shown, "lower [worker] reference_cache_mib in hospital.toml")
    else:
        yield ok("MEMORY", shown)


def _data(folder: Path) -> Iterator[Finding]:
    """Read a few records; only their number is shown."""
    from medunlearn_client.records.quarantine import Quarantine
    from medunlearn_client.records.reading import ReadOptions, stream_records

    site = read_site_config(folder)
    if site.entropy_seed is not None:
        yield problem("ENTROPY_SEED", "noise is drawn from a fixed seed, which protects nobody",
                      "delete entropy_seed: it is for simulations")
    if not site.data.files:
        yield problem("DATA_UNSET", "no records are named", "set [data] files in site.toml")
        return
    files = [Path(name) for name in site.data.files]
    found = stream_records(files, options=ReadOptions.of_plan(site.data),
                           quarantine=Quarantine(max_bad_fraction=site.data.max_bad_fraction))
    count = sum(1 for _ in islice(found, _RECORDS))
    if count == 0:
        yield problem("DATA_NO_RECORDS", "the files hold no usable record",
                      "medunlearn records check says why")
    else:
        more = " or more" if count == _RECORDS else ""
        yield ok("DATA", f"{count}{more} records can be read")
    if site.registry is None:
        yield from forget_findings(site.data, site.forget)


def _erasure(folder: Path) -> Iterable[Finding]:
    from medunlearn_client.joining.erasure_check import erasure_findings  # late, as the readers

    return erasure_findings(folder, read_site_config(folder))


def _runs(folder: Path) -> bool:
    from medunlearn_client.service.node import service_pid  # late: it needs gRPC

    return service_pid(HospitalPaths(folder=folder)) is not None


def _node(folder: Path, now: float) -> Iterator[Finding]:
    """What the running service's node was told by the coordinator."""
    if not _runs(folder):
        yield ok("SERVICE_STOPPED", "the service is stopped: nobody asked whether its node is let "
                 "in")
        return
    link = NodeLink.read(HospitalPaths(folder=folder).link)
    if link.trouble is not None:
        # Of a node that has just started, or a coordinator that has, it may be over in a minute.
        level = problem if now - link.since > _LET_IN_S else warning
        yield level(link.trouble.code, link.trouble.message, link.trouble.hint)
    elif link.at:
        yield ok("NODE_LET_IN", "the coordinator answers the calls of this hospital's node")


def _ports(config: HospitalConfig, *, running: bool) -> Iterator[Finding]:
    addresses = {"node": split(config.node.runtime)}
    if config.watch.enabled:
        addresses["watch"] = split(config.watch.address)
    yield from check_ports(addresses, running=running)
