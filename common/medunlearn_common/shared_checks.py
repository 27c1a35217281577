"""Checks of `doctor` that both parties need: versions, files, roster, clock, ports, TLS."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medunlearn_common import __version__
from medunlearn_common.code_digest import installed_code_digest
from medunlearn_common.doctor import Finding, ok, problem, warning
from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.founding import loose_files, writable_files
from medunlearn_common.full_disk import is_full
from medunlearn_common.pki import certificates_from_pem, days_left, require_server_chain
from medunlearn_common.roster import TrustedRoster
from medunlearn_common.trust_folder import TRUST_FOLDER, open_identity

MIN_PYTHON = (3, 11)
# First and first-not-allowed versions, as in the package's own requirements.
KNOWN_RANGES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "flwr": ((1, 41), (1, 42)), "torch": ((2, 6), (3,)), "transformers": ((5,), (6,)),
    "peft": ((0, 18), (1,)), "opacus": ((1, 5, 4), (2,)), "cryptography": ((44,), (51,)),
}
CONNECT_S = 8.0
SOON_DAYS = 30.0
FREE_BYTES = 5 << 30
# Flower refuses nodes whose clock is more than 5 s ahead or 300 s behind.
AHEAD_S, BEHIND_S, NOTICED_S = 5.0, 300.0, 2.0
_HINT_ROTATE = "replace it: medunlearn hospital rotate, or medunlearn coordinator rotate"
_HINT_CLOCK = "set the clock by NTP (timedatectl set-ntp true); nodes with a wrong one are refused"


def check_versions(packages: Iterable[str]) -> Iterator[Finding]:
    """Python, medunlearn and the libraries of one party."""
    shown = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < MIN_PYTHON:
        yield problem("PYTHON_OLD", f"Python {shown}", "use Python 3.11 or newer")
    else:
        yield ok("PYTHON", f"Python {shown}, medunlearn {__version__}")
    for name in packages:
        lowest, beyond = KNOWN_RANGES[name]
        wanted = f"{'.'.join(map(str, lowest))} or later, below {'.'.join(map(str, beyond))}"
        try:
            found = version(name)
        except PackageNotFoundError:
            yield problem("PACKAGE_MISSING", f"{name} is not installed", "run `make install`, or "
                          "pip install the extra of this party: medunlearn[hospital|coordinator]")
            continue
        numbers = tuple(int(part) for part in found.partition("+")[0].split(".")[:3]
                        if part.isdigit())
        if lowest <= numbers < beyond:
            yield ok("PACKAGE", f"{name} {found}")
        else:
            yield problem("PACKAGE_VERSION", f"{name} {found}, {wanted} is needed",
                          "install with constraints.txt: `make install`")


def check_code(expected: str, expected_version: str) -> Iterator[Finding]:
    """The code that is installed here against the one the federation named."""
    here = installed_code_digest()
    if not expected or here == expected:
        yield ok("CODE", f"medunlearn's code {here[:12]}" + (" as invited" if expected else ""))
    else:
        yield problem(
            "CODE_DIFFERS", f"the code here is {here[:12]}, the federation uses {expected[:12]} "
            f"(version {expected_version}; here {__version__})",
            "install exactly that version, unchanged; after an upgrade of the whole federation ask "
            "the coordinator for a refresh file")


def check_modes(folder: Path) -> Iterator[Finding]:
    """Whether others can reach what must stay private, or write what this party goes by."""
    loose = loose_files(folder)
    for name, mode in loose:
        yield problem("KEY_FILE_MODE", f"{name} has mode {mode:04o}: others can reach it",
                      f"chmod go-rwx {folder / name}; if others could have read a key, have it "
                      "revoked (a hospital's: medunlearn coordinator revoke) and come back with a "
                      "new invitation")
    writable = writable_files(folder)
    for name, mode in writable:
        yield problem("FILE_WRITABLE", f"{name} has mode {mode:04o}: others can change it",
                      f"chmod go-w {folder / name}; see whether it says what you wrote")
    if not (loose or writable):
        yield ok("FILE_MODES", "keys, secrets and settings are this user's alone")


def check_disk(folder: Path) -> Iterator[Finding]:
    """Free space where the folder is."""
    free = shutil.disk_usage(folder).free
    shown = f"{free / 2**30:.1f} GiB free"
    if is_full(folder):
        yield problem("STORAGE_FULL", f"{free / 2**20:.1f} MiB free: nothing more can be noted",
                      f"df -h {folder}; free some space, and the service goes on by itself")
    elif free < FREE_BYTES:
        yield warning("DISK_LOW", shown, "free some space, or move the folder: checkpoints, logs "
                      "and received adapters need it")
    else:
        yield ok("DISK", shown)


def check_roster(
    folder: Path, *, now: float, join: str, min_sites: int = 3
) -> Iterator[Finding]:
    """The roster in force, and this party's own entry in it.

    Args:
        folder: The party's.
        now: Seconds since 1970.
        join: What this party does to get a roster that names it.
        min_sites: Fewer than this cannot run.
    """
    identity = open_identity(folder)
    yield ok("IDENTITY", f"{identity.party_id}, key {identity.key_id[:16]}")
    roster = TrustedRoster(folder / TRUST_FOLDER, now=0.0).current
    left = (roster.expires - now) / 86_400
    if left <= 0:
        yield problem("ROSTER_EXPIRED", f"roster {roster.version} has expired",
                      "the consortium signs the next version: medunlearn coordinator roster renew")
    elif left < SOON_DAYS:
        yield warning("ROSTER_SOON", f"roster {roster.version} expires in {left:.0f} days",
                      "ask the consortium for the next version")
    else:
        yield ok("ROSTER", f"roster {roster.version}, {len(roster.sites)} sites, good for "
                 f"{left:.0f} days")
    if identity.key_id in roster.revoked:
        yield problem("KEY_REVOKED", "this party's key was revoked", "ask the consortium why")
        return
    own = [party for party in roster.parties if party.party_id == identity.party_id]
    if not own:
        yield problem("ROSTER_WITHOUT_US", f"{identity.party_id} is not in the roster yet", join)
    elif own[0].key_id != identity.key_id:
        yield problem("ROSTER_OTHER_KEY", f"the roster has another key for {identity.party_id}",
                      f"{join}; if you did not rotate it, report this: somebody took your name")
    else:
        yield from _own_entry(own[0].valid_from, own[0].valid_until, now)
    if len(roster.sites) < min_sites:
        yield warning("SITES_FEW", f"{len(roster.sites)} sites; runs need {min_sites} or more",
                      "wait until the others have joined")


def _own_entry(valid_from: int, valid_until: int, now: float) -> Iterator[Finding]:
    left = (valid_until - now) / 86_400
    if not valid_from - 300 <= now <= valid_until:
        yield problem("KEY_EXPIRED", "this party's key is not valid now",
                      f"check the clock; else {_HINT_ROTATE}")
    elif left < SOON_DAYS:
        yield warning("KEY_SOON", f"this party's key expires in {left:.0f} days", _HINT_ROTATE)
    else:
        yield ok("ROSTER_ENTRY", f"the roster names this very key, good for {left:.0f} days")


def check_ports(addresses: Mapping[str, tuple[str, int]], *, running: bool) -> Iterator[Finding]:
    """Whether local ports are free, or taken by our own running service."""
    for name, (host, port) in addresses.items():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            if running:
                yield ok("PORT", f"{name} {host}:{port} is in use by the service")
            else:
                yield problem("PORT_TAKEN", f"{name} {host}:{port}: {error.strerror}",
                              "stop what uses it (ss -ltnp), or choose another port")
            continue
        yield ok("PORT", f"{name} {host}:{port} is free")


def check_gateway(
    host: str, port: int, authorities: Path, *, now: Callable[[], float],
    connect_s: float = CONNECT_S,
) -> Iterator[Finding]:
    """Connect as a node does: name, port, TLS chain and name, expiry, clock.

    Args:
        host: Of the coordinator's gateway.
        port: Its port.
        authorities: PEM file of whom this party trusts.
        now: Seconds since 1970.
        connect_s: Longest wait for each step.
    """
    proxies = sorted(name for name in os.environ if name.lower() in ("https_proxy", "all_proxy"))
    if proxies:
        yield warning("PROXY_SET", f"{' and '.join(proxies)} set: the node may go through a proxy "
                      "that breaks TLS", f"add {host} to NO_PROXY for the service")
    try:
        plain = socket.create_connection((host, port), timeout=connect_s)
    except socket.gaierror:
        yield problem("HOST_UNKNOWN", f"the name {host} is not known here",
                      "check DNS, and the coordinator's address")
        return
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or "refused"
        yield problem("UNREACHABLE", f"{host}:{port}: {why}",
                      "is the coordinator's service running? may this machine connect out to that "
                      "port through the firewall?")
        return
    with plain:
        yield ok("REACHABLE", f"{host}:{port} answers")
        yield from _tls(plain, host, authorities.read_bytes(), now)


def _tls(
    plain: socket.socket, host: str, authorities: bytes, now: Callable[[], float]
) -> Iterator[Finding]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authorities.decode("ascii"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    peer = plain.getpeername()
    try:
        with context.wrap_socket(plain, server_hostname=host) as connection:
            leaf = ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")
            left = days_left(certificates_from_pem(leaf.encode("ascii"))[0], now=now())
            if left < SOON_DAYS:
                yield warning("TLS_SOON", f"the coordinator's certificate expires in {left:.0f} "
                              "days", "medunlearn coordinator rotate-certificate, over there")
            else:
                yield ok("TLS", f"{connection.version()}, certificate good for {left:.0f} days")
            yield from _clock(connection, host, now)
    except ssl.SSLCertVerificationError:
        yield _why_refused(peer, unchecked, host, authorities, now())
    except (ssl.SSLError, OSError) as error:
        yield problem("TLS_FAILED", f"no TLS: {getattr(error, 'reason', '') or error.strerror}",
                      "is it the gateway's port, and nothing else's?")


def _why_refused(
    peer: tuple[str, int], unchecked: ssl.SSLContext, host: str, authorities: bytes, now: float
) -> Finding:
    """Ask for the certificate again, believing nothing, to say what is wrong with it."""
    try:
        with socket.create_connection(peer[:2], timeout=CONNECT_S) as again, \
                unchecked.wrap_socket(again) as connection:
            chain = ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")
        require_server_chain(certificates_from_pem(chain.encode("ascii")),
                             certificates_from_pem(authorities), host, now=now)
    except Rejected as error:
        return problem(error.code, error.message, error.hint)
    except (OSError, MedunlearnError):
        pass
    return problem("TLS_REFUSED", "the certificate does not satisfy TLS",
                   "ask the coordinator to run its doctor")


def _clock(
    connection: ssl.SSLSocket, host: str, now: Callable[[], float]
) -> Iterator[Finding]:
    """Compare with the Date header of any answer; a refusal has one too."""
    connection.settimeout(CONNECT_S)
    before = now()
    try:
        connection.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                           .encode("ascii"))
        answer = http.client.HTTPResponse(connection, method="HEAD")
        answer.begin()
        theirs = parsedate_to_datetime(answer.getheader("Date") or "").timestamp()
    except (OSError, http.client.HTTPException, ValueError, TypeError):
        yield warning("CLOCK_UNKNOWN", "the coordinator told no time", "compare the clocks by hand")
        return
    # The header has whole seconds, cut off: on average half a second is missing.
    ahead = (before + now()) / 2 - (theirs + 0.5)
    shown = f"this clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the " \
            "coordinator's"
    if ahead > AHEAD_S or ahead < -BEHIND_S:
        yield problem("CLOCK_OFF", shown, _HINT_CLOCK)
    elif abs(ahead) > NOTICED_S:
        yield warning("CLOCK_DRIFT", shown, _HINT_CLOCK)
    else:
        yield ok("CLOCK", "the clock agrees with the coordinator's")
