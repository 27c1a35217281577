"""``medunlearn coordinator init``: one folder with keys, authority, configuration, and root.

A real consortium keeps its root keys offline, at several institutions, and only brings a signed
roster here. For a pilot on one desk the root can be made along with the rest; that is said
plainly, at `init` and by each `doctor`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from medunlearn_common.entropy import Entropy
from medunlearn_common.envelope.dsse import sign_bytes
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.founding import new_folder, new_trust_folder
from medunlearn_common.identity import (
    SigningIdentity,
    open_private_file,
    read_identity,
    write_identity,
)
from medunlearn_common.naming import require_entity, require_name
from medunlearn_common.pki import issue_client, issue_server, new_authority, write_pair
from medunlearn_common.plan.template import section_text
from medunlearn_common.roster import Root, Roster, enrolment_request
from medunlearn_common.roster.document import ROSTER_TYPE, party_to_bytes
from medunlearn_common.roster.trusted import ROOT_FILE, ROSTER_FILE
from medunlearn_common.service_files import write_service_files
from medunlearn_common.trust_folder import PASSPHRASE_FILE, TRUST_FOLDER
from medunlearn_server.joining.own_certificate import OwnCertificate, adopt_certificate
from medunlearn_server.service.config import (
    CONFIG_FILE,
    CoordinatorConfig,
    FederationSection,
    ListenSection,
    TlsSection,
    split_address,
)

ROOT_FOLDER, ENTRY_FILE = "root", "coordinator.entry"
KEY_DAYS, ROSTER_DAYS = 730, 90
_DAY_S = 86_400
_OWNER_ONLY = 0o700


@dataclass(frozen=True, kw_only=True)
class Founding:
    """What `init` is told.

    Attributes:
        federation: Name of the federation.
        address: ``host:port`` for hospitals.
        party_id: The coordinator's party id.
        entity: Its legal entity.
        names: Further names and addresses of the server.
        root_keys: How many root keys to make here; 0 leaves the root to the consortium.
        threshold: How many of them must sign.
        passphrase_file: See :func:`medunlearn_common.founding.new_trust_folder`.
        certificate: An institution's certificate for the gateway; None makes an own one.
    """

    federation: str
    address: str
    party_id: str = "coordinator"
    entity: str
    names: tuple[str, ...] = ()
    root_keys: int = 0
    threshold: int = 1
    passphrase_file: Path | None = None
    certificate: OwnCertificate | None = None

    def __post_init__(self) -> None:
        require_name(self.federation, of="a federation")
        require_name(self.party_id, of="a party")
        require_entity(self.entity)
        if self.root_keys and not 1 <= self.threshold <= self.root_keys:
            raise Misconfigured("ROOT_THRESHOLD", f"{self.threshold} of {self.root_keys} root keys",
                                "choose a threshold from 1 to the number of keys")


def found(folder: Path, founding: Founding, *, entropy: Entropy, now: float) -> None:
    """Make the coordinator's folder, whole or not at all.

    Raises:
        Misconfigured: FOLDER_EXISTS, ADDRESS, ROOT_THRESHOLD, TLS_NAMES, KEY_ and TLS_ codes.
        Transient: WRITE_FAILED.
    """
    try:
        host, port = split_address(founding.address)
    except ValueError as error:
        raise Misconfigured("ADDRESS", f"{founding.address!a}: {error}",
                            "give --address as hospitals will reach this machine") from error
    names = tuple(dict.fromkeys((host, *founding.names, "localhost", "127.0.0.1")))
    own = founding.certificate
    config = CoordinatorConfig(
        federation=FederationSection(name=founding.federation, address=founding.address),
        listen=ListenSection(public=f"0.0.0.0:{port}"),
        tls=TlsSection(names=names) if own is None else TlsSection(
            names=names, server_ca="tls/institution-ca.pem",
            control_certificate="tls/control-server.pem", control_key="tls/control-server.key"),
    )
    with new_folder(folder) as draft:
        for name in ("nodes", "invitations", "enrolments", "state", "runs", "published"):
            (draft / name).mkdir(mode=_OWNER_ONLY)
        identity = new_trust_folder(draft, founding.party_id, entropy=entropy,
                                    passphrase_file=founding.passphrase_file)
        entry = enrolment_request(
            identity, role="coordinator", entity=founding.entity, valid_from=int(now),
            valid_until=int(now) + KEY_DAYS * _DAY_S)
        write_atomically(draft / ENTRY_FILE, party_to_bytes(entry), private=False)
        _certificates(draft, founding.federation, names, own, now=now)
        if founding.root_keys:
            root = _pilot_root(draft, founding, entropy)
            roster = Roster(version=1, issued=int(now), expires=int(now) + ROSTER_DAYS * _DAY_S,
                            parties=(entry,), root=root)
            publish_first(draft, roster, sign_as_pilot(draft, roster))
        write_atomically(draft / CONFIG_FILE, coordinator_text(config).encode("utf-8"),
                         private=False)
        write_service_files(draft, role="coordinator", final=folder.absolute())


def coordinator_text(config: CoordinatorConfig) -> str:
    """``coordinator.toml`` with every key explained; parsing it gives an equal configuration."""
    parts = ["# A medunlearn coordinator. Unknown keys are errors.",
             "# Check an edited file with `medunlearn coordinator doctor`."]
    parts += [section_text(name, getattr(config, name)) for name in type(config).model_fields]
    return "\n".join(parts) + "\n"


def publish_first(folder: Path, roster: Roster, document: bytes) -> None:
    """Pin a root and put the first roster into force."""
    place = folder / TRUST_FOLDER
    write_atomically(place / ROOT_FILE, roster.root.to_bytes(), private=False)
    write_atomically(place / ROSTER_FILE, document, private=False)


def has_pilot_root(folder: Path) -> bool:
    """Whether the consortium's root keys lie here."""
    return (folder / ROOT_FOLDER).is_dir()


def sign_as_pilot(folder: Path, roster: Roster) -> bytes:
    """A roster signed by as many root keys of this folder as it needs.

    Raises:
        Misconfigured: KEY_ codes, ROOT_KEYS_TOO_FEW.
    """
    place = folder / ROOT_FOLDER
    passphrase = open_private_file(place / PASSPHRASE_FILE).strip()
    signers = [
        read_identity(path, party_id=path.stem, passphrase=passphrase)
        for path in sorted(place.glob("root-*.key"))[: roster.root.threshold]
    ]
    if len(signers) < roster.root.threshold:
        raise Misconfigured("ROOT_KEYS_TOO_FEW", f"{len(signers)} root keys are here, "
                            f"{roster.root.threshold} must sign",
                            "sign the draft with `medunlearn roster sign` where the keys are")
    return sign_bytes(roster.to_bytes(), ROSTER_TYPE, *signers).to_bytes()


def _certificates(
    draft: Path, federation: str, names: tuple[str, ...], own: OwnCertificate | None, *,
    now: float,
) -> None:
    tls = draft / "tls"
    tls.mkdir(mode=_OWNER_ONLY)
    authority = new_authority(federation, now=now)
    write_pair(authority, certificate=tls / "ca.pem", key=tls / "ca.key")
    write_pair(issue_client(authority, "control-client", now=now),
               certificate=tls / "control-client.pem", key=tls / "control-client.key")
    if own is None:
        write_pair(issue_server(authority, names, now=now),
                   certificate=tls / "server.pem", key=tls / "server.key")
    else:
        # The command line trusts the federation's own authority alone, also for the server.
        write_pair(issue_server(authority, names, now=now), certificate=tls / "control-server.pem",
                   key=tls / "control-server.key")
        adopt_certificate(own, names[0], certificate=tls / "server.pem", key=tls / "server.key",
                          authority=tls / "institution-ca.pem", now=now)


def _pilot_root(draft: Path, founding: Founding, entropy: Entropy) -> Root:
    place = draft / ROOT_FOLDER
    place.mkdir(mode=_OWNER_ONLY)
    passphrase = secrets.token_urlsafe(24).encode("ascii")
    write_atomically(place / PASSPHRASE_FILE, passphrase + b"\n")
    keys = []
    for number in range(1, founding.root_keys + 1):
        identity = SigningIdentity.generate(f"root-{number}", entropy)
        write_identity(place / f"root-{number}.key", identity, passphrase=passphrase)
        keys.append(identity.public_key)
    return Root(threshold=founding.threshold, keys=tuple(sorted(keys)))
