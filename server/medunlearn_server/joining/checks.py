"""The checks of ``medunlearn coordinator doctor``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography import x509

from medunlearn_common.doctor import Check, Finding, ok, problem, warning
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.identity import open_private_file
from medunlearn_common.keeping.stores import refuse_newer_stores
from medunlearn_common.pki import days_left, read_certificates, require_server_chain
from medunlearn_common.shared_checks import (
    SOON_DAYS,
    check_code,
    check_disk,
    check_gateway,
    check_modes,
    check_ports,
    check_roster,
    check_versions,
)
from medunlearn_server.joining.founding import has_pilot_root
from medunlearn_server.joining.membership import DRAFT_FILE, Membership
from medunlearn_server.joining.own_certificate import require_key_of
from medunlearn_server.joining.own_key import NEXT_FOLDER
from medunlearn_server.service.config import CoordinatorFolder, open_folder, split_address

_ANYWHERE = ("0.0.0.0", "::")
_ROTATE = "medunlearn coordinator rotate-certificate"
_NEW_AUTHORITY = f"{_ROTATE} --new-authority; every hospital needs it before the old one ends"
_REFRESH = "then medunlearn coordinator refresh, and every hospital: join --refresh FILE"


def coordinator_checks(folder: Path, *, now: float) -> Mapping[str, Check]:
    """All checks of one coordinator's folder, by topic, in the order in which they are mended.

    Raises:
        Misconfigured: COORDINATOR_CONFIG_ codes: without it nothing else can be looked at.
    """
    coordinator = open_folder(folder)
    return {
        "versions": lambda: (*check_versions(("flwr", "opacus", "cryptography")),
                             *check_code("", "")),
        "files": lambda: (*check_modes(coordinator.path), *check_disk(coordinator.path)),
        "stores": lambda: _stores(coordinator.path),
        "roster": lambda: _roster(coordinator, now),
        "members": lambda: _members(coordinator, now),
        "tls": lambda: _certificates(coordinator, now),
        "ports": lambda: _service(coordinator),
    }


def _stores(folder: Path) -> Iterator[Finding]:
    refuse_newer_stores(folder)
    yield ok("STORES", "this version knows all stores")


def _roster(coordinator: CoordinatorFolder, now: float) -> Iterator[Finding]:
    if (coordinator.path / NEXT_FOLDER).exists():
        # What a rotation was cut off in is finished, and no finding.
        Membership(coordinator.path, now=now).sync_nodes()
    if has_pilot_root(coordinator.path):
        yield warning("ROOT_KEYS_ONLINE", "the consortium's root keys lie on this machine: a pilot",
                      "a real consortium keeps them offline, one per institution")
    yield from check_roster(
        coordinator.path, now=now,
        join="give coordinator.entry to the consortium, then medunlearn coordinator roster import")
    if (coordinator.path / DRAFT_FILE).exists():
        yield warning("ROSTER_DRAFT", f"{DRAFT_FILE} waits for the root's signatures",
                      "medunlearn roster sign, where the root keys are; then roster import")
    if (coordinator.path / NEXT_FOLDER).exists():
        yield warning("ROTATION_PENDING", "a new signing key waits to come into force",
                      "it does with the roster that names it: have roster.draft signed and import "
                      "it (with the root's keys here: medunlearn coordinator rotate); or take it "
                      "back: medunlearn coordinator rotate --give-up")


def _members(coordinator: CoordinatorFolder, now: float) -> Iterator[Finding]:
    membership = Membership(coordinator.path, now=now)
    roster, enrolled = membership.roster().current, membership.sync_nodes()
    taken_back = membership.taken_back()
    for site in taken_back:
        yield problem("REVOCATION_UNSIGNED", f"{site} is revoked here, and the roster does not "
                      "say so yet", "the root's owners sign roster.draft, then roster import; if "
                      "there is no draft: medunlearn coordinator roster renew")
    for site in roster.sites:
        if site not in enrolled and site not in taken_back:
            yield problem("NODE_KEY_MISSING", f"{site} is in the roster, but its node has no key "
                          "here", f"medunlearn coordinator enrol {site}.enrolment")
    if enrolled:
        yield ok("NODES", f"{len(enrolled)} hospitals' nodes are let in")
    for issued in membership.issued():
        if issued.used_by and not issued.compared:
            yield warning("TRUST_ON_FIRST_USE", f"nobody compared {issued.site_id}'s fingerprint",
                          "telephone them: medunlearn hospital doctor shows it")
        elif not issued.used_by and issued.expires < now:
            yield warning("INVITATION_EXPIRED", f"{issued.site_id} has not answered its invitation",
                          "invite it again, or delete the file in invitations/")


def _certificates(coordinator: CoordinatorFolder, now: float) -> Iterator[Finding]:
    chain = read_certificates(coordinator.tls("certificate"))
    authorities = read_certificates(coordinator.tls("server_ca"))
    require_key_of(chain[0], open_private_file(coordinator.tls("key")),
                   name=coordinator.config.tls.key)
    tls, renewal, authority = coordinator.config.tls, _ROTATE, _NEW_AUTHORITY
    if tls.control_certificate != tls.certificate:
        # An institution's own: no command here issues it.
        renewal = f"put the institution's next ones in place of {tls.certificate} and {tls.key}"
        authority = f"put the institution's next one in place of {tls.server_ca}; {_REFRESH}"
        control = read_certificates(coordinator.tls("control_certificate"))
        require_server_chain(control, read_certificates(coordinator.tls("ca")), "127.0.0.1",
                             now=now)
        yield _expiry("control service's certificate", control[0], now)
    sound = True
    for name in coordinator.config.tls.names:
        try:
            require_server_chain(chain, authorities, name, now=now)
        except MedunlearnError as error:
            sound = False
            yield problem(error.code, f"{name}: {error.message}", error.hint)
    host = split_address(coordinator.config.federation.address)[0]
    if host not in coordinator.config.tls.names:
        yield problem("TLS_NAME", f"hospitals connect to {host}, which is not in [tls] names",
                      f"add it; {_ROTATE}")
    if sound:
        names = ", ".join(coordinator.config.tls.names)
        yield ok("TLS_NAMES", f"the certificate is good for {names}")
    yield _expiry("server certificate", chain[0], now, hint=renewal)
    yield _expiry("authority", authorities[0], now, hint=authority)
    client = read_certificates(coordinator.tls("client_certificate"))[0]
    require_key_of(client, open_private_file(coordinator.tls("client_key")),
                   name=coordinator.config.tls.client_key)
    yield _expiry("command line's certificate", client, now)


def _expiry(
    what: str, certificate: x509.Certificate, now: float, *, hint: str = _ROTATE
) -> Finding:
    left = days_left(certificate, now=now)
    if left <= 0:
        return problem("TLS_EXPIRED", f"the {what} has expired", hint)
    if left < SOON_DAYS:
        return warning("TLS_SOON", f"the {what} expires in {left:.0f} days", hint)
    return ok("TLS_EXPIRY", f"the {what} is good for {left:.0f} days")


def _service(coordinator: CoordinatorFolder) -> Iterator[Finding]:
    """Ports; they may be taken if it is our own certificate that answers at the public one."""
    config = coordinator.config
    addresses = {"public": config.listen.public, "superlink": config.listen.superlink,
                 "control": config.listen.control}
    if config.watch.enabled:
        addresses["watch"] = config.watch.address
    places = {name: split_address(address) for name, address in addresses.items()}
    host, port = places["public"]
    local = "127.0.0.1" if host in _ANYWHERE else host
    answers = list(check_gateway(local, port, coordinator.tls("server_ca"), now=time.time,
                                 connect_s=2.0))
    reached = any(finding.code in ("TLS", "TLS_SOON") for finding in answers)
    yield from check_ports(places, running=reached)
    if reached:
        yield from answers
    else:
        yield warning("SERVICE_STOPPED", "the service does not answer on this machine",
                      "medunlearn coordinator serve, or systemctl start "
                      "medunlearn-coordinator")
