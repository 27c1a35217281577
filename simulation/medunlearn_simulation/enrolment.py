"""Keys, roster and policies of a simulated federation, made when a run is prepared.

Deterministic: all keys come from the plan's seed, so that a repeated run signs the same roster.
The keys protect nothing, for whoever knows the seed can make them; what is tested with them is
the protocol that real keys protect. It is always on: there is no run without it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from medunlearn_client.policy import (
    FLOOR_SITES,
    FederationLimits,
    PrivacyLimits,
    SitePolicy,
    planned_epsilon,
    policy_template,
)
from medunlearn_common.entropy import Entropy, SeededEntropy
from medunlearn_common.envelope import sign_bytes
from medunlearn_common.files import write_atomically
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.plan import RunPlan
from medunlearn_common.roster import Root, Roster, enrolment_request
from medunlearn_common.roster.document import ROSTER_TYPE, Party, Role
from medunlearn_common.roster.trusted import ROOT_FILE, ROSTER_FILE
from medunlearn_common.trust_folder import (
    KEY_FILE,
    PARTY_FILE,
    PASSPHRASE_FILE,
    POLICY_FILE,
    TRUST_FOLDER,
)

COORDINATOR = "coordinator"
ROOT_KEYS, ROOT_THRESHOLD = 3, 2
# Fixed times, so that a roster repeats bit for bit: 1970 to 2100.
_FROM, _UNTIL = 0, 4_102_444_800


def enrol(plan: RunPlan, *, run_folder: Path, sites: Mapping[Path, str]) -> None:
    """Give the coordinator and every site a trust folder, unless they have this very one.

    Args:
        plan: The run's plan: its seed names the keys, its values are what policies accept.
        run_folder: The coordinator's folder.
        sites: Site folder to site id.
    """
    entropy = SeededEntropy(plan.run.seed)
    identities = {name: SigningIdentity.generate(name, entropy) for name in sites.values()}
    leader = SigningIdentity.generate(COORDINATOR, entropy)
    root, roster = _signed_roster(entropy, leader, identities)
    _write_trust(run_folder, leader, entropy, root, roster)
    policy = policy_template(policy_for(plan)).encode("utf-8")
    for folder, name in sites.items():
        _write_trust(folder, identities[name], entropy, root, roster)
        path = folder / TRUST_FOLDER / POLICY_FILE
        if not path.exists():
            write_atomically(path, policy)


def policy_for(plan: RunPlan) -> SitePolicy:
    """A policy that accepts just this plan and this code; the floor of three sites stays."""
    return SitePolicy(
        privacy=PrivacyLimits(
            max_epsilon=planned_epsilon(plan), max_delta=plan.privacy.delta,
            max_total_epsilon=planned_epsilon(plan),
            allow_no_noise=plan.privacy.noise == "none", min_sigma=0.0,
            units=(plan.privacy.unit,),
        ),
        federation=FederationLimits(
            coordinators=(COORDINATOR,), min_sites=max(FLOOR_SITES, plan.federation.min_sites),
            max_rounds=plan.run.rounds, max_local_steps=plan.privacy.local_steps,
            max_density=plan.support.density, support_methods=(plan.support.method,), max_runs=1,
        ),
    )


def _signed_roster(
    entropy: Entropy, leader: SigningIdentity, sites: Mapping[str, SigningIdentity]
) -> tuple[Root, bytes]:
    root_keys = [SigningIdentity.generate(f"root-{i}", entropy) for i in range(ROOT_KEYS)]
    root = Root(threshold=ROOT_THRESHOLD, keys=tuple(sorted(k.public_key for k in root_keys)))
    parties = [_party(leader, "coordinator"), *(_party(site, "site") for site in sites.values())]
    roster = Roster(
        version=1, issued=_FROM, expires=_UNTIL, root=root,
        parties=tuple(sorted(parties, key=lambda party: party.party_id)),
    )
    signers = root_keys[:ROOT_THRESHOLD]
    return root, sign_bytes(roster.to_bytes(), ROSTER_TYPE, *signers).to_bytes()


def _party(identity: SigningIdentity, role: Role) -> Party:
    return enrolment_request(
        identity, role=role, entity=f"simulated {identity.party_id}",
        valid_from=_FROM, valid_until=_UNTIL,
    )


def _write_trust(
    folder: Path, identity: SigningIdentity, entropy: Entropy, root: Root, roster: bytes
) -> None:
    place = folder / TRUST_FOLDER
    kept = place / ROSTER_FILE  # written last
    if kept.exists() and kept.read_bytes() == roster:
        return
    shutil.rmtree(place, ignore_errors=True)
    passphrase = entropy.key("passphrase", identity.party_id).hex().encode("ascii")
    write_atomically(place / PASSPHRASE_FILE, passphrase)
    write_atomically(place / KEY_FILE, identity.to_pem(passphrase))
    write_atomically(place / PARTY_FILE, identity.party_id.encode("ascii"))
    write_atomically(place / ROOT_FILE, root.to_bytes())
    write_atomically(kept, roster)



