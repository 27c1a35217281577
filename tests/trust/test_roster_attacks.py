"""Attacks on keys, key files, roster and bundle; each test is named after one."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from open_files import all_closed_again
from trust_lab import (
    CODE,
    ENTROPY,
    NOW,
    OPENED,
    ROOT,
    ROOT_KEYS,
    SITES,
    Inside,
    Lab,
    entry,
    key,
    roster,
    same,
    signed,
    store,
    trust,
)
from typer import Typer
from typer.testing import CliRunner

from medunlearn_client.bundle_check import require_installed_code
from medunlearn_client.policy import SitePolicy, policy_from_bytes, policy_template
from medunlearn_client.policy_commands import policy_app
from medunlearn_client.sealed_hospital import SealedHospital
from medunlearn_common.envelope import HELLO, sign_bytes
from medunlearn_common.errors import MedunlearnError, Misconfigured, Rejected
from medunlearn_common.identity import (
    SigningIdentity,
    passphrase_from,
    read_identity,
    verify_signature,
    write_identity,
)
from medunlearn_common.identity.commands import keys_app
from medunlearn_common.roster import (
    Party,
    Root,
    Roster,
    TrustedRoster,
    require_successor,
    verify_roster,
)
from medunlearn_common.roster.commands import roster_app
from medunlearn_common.roster.document import ROSTER_TYPE
from medunlearn_common.trust_folder import open_trust

PASSPHRASE = b"several random words"


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(MedunlearnError) as caught:
        action()
    return caught.value.code


# -- key files ---------------------------------------------------------------------------

@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o601])
def test_a_key_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    write_identity(path, key("a"), passphrase=PASSPHRASE)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(mode)
    assert code_of(lambda: read_identity(path, party_id="a", passphrase=PASSPHRASE)) == (
        "KEY_FILE_MODE")


def test_a_passphrase_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(PASSPHRASE + b"\n")
    path.chmod(0o644)
    assert code_of(lambda: passphrase_from(path)) == "KEY_FILE_MODE"
    path.chmod(0o600)
    assert passphrase_from(path) == PASSPHRASE


def test_wrong_missing_and_damaged_key_files(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    assert code_of(lambda: read_identity(path, party_id="a", passphrase=PASSPHRASE)) == (
        "KEY_FILE_MISSING")
    assert code_of(lambda: write_identity(path, key("a"), passphrase=b"short")) == (
        "KEY_PASSPHRASE_SHORT")
    write_identity(path, key("a"), passphrase=PASSPHRASE)
    assert code_of(lambda: write_identity(path, key("b"), passphrase=PASSPHRASE)) == (
        "KEY_FILE_EXISTS")
    assert code_of(lambda: read_identity(path, party_id="a", passphrase=b"other words")) == (
        "KEY_PASSPHRASE")
    path.write_bytes(path.read_bytes().replace(b"ENCRYPTED ", b""))
    assert code_of(lambda: read_identity(path, party_id="a", passphrase=PASSPHRASE)) == (
        "KEY_FILE_INVALID")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert code_of(lambda: read_identity(fifo, party_id="a", passphrase=PASSPHRASE)) == (
        "KEY_FILE_INVALID")


def test_a_stolen_key_file_holds_nothing_readable(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    identity = SigningIdentity.generate("a", ENTROPY)
    write_identity(path, identity, passphrase=PASSPHRASE)
    assert ENTROPY.key("identity", "a") not in path.read_bytes()
    again = read_identity(path, party_id="a", passphrase=PASSPHRASE)
    assert again.sign("c", b"m") == identity.sign("c", b"m")
    assert ENTROPY.key("identity", "a").hex() not in repr(again) and "redacted" in repr(again)
    with pytest.raises(TypeError):
        pickle.dumps(again)


@pytest.mark.parametrize("hexed", [
    "00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "00" * 31 + "80",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "ed" + "ff" * 30 + "7f", "ff" * 32, "00" * 31,
])
def test_low_order_and_non_canonical_public_keys(hexed: str) -> None:
    public_key = bytes.fromhex(hexed)
    assert code_of(lambda: verify_signature(public_key, "c", b"m", bytes(64))) == "KEY_INVALID"


def test_a_signature_under_one_context_is_none_under_another() -> None:
    signature = key("a").sign("application/a", b"m")
    verify_signature(key("a").public_key, "application/a", b"m", signature)
    for context, message in (("application/b", b"m"), ("application/a", b"n"), ("", b"m")):
        assert code_of(lambda c=context, m=message: verify_signature(
            key("a").public_key, c, m, signature)) == "SIGNATURE_INVALID"


# -- roster ------------------------------------------------------------------------------

def accept(data: bytes, root: Root = ROOT) -> object:
    return verify_roster(data, root, now=NOW)


def test_a_coordinator_cannot_add_a_site() -> None:
    more = roster(2)
    more = replace(more, parties=tuple(sorted(
        (*more.parties, entry(key("puppet"))), key=lambda p: p.party_id)))
    assert code_of(lambda: accept(signed(more, key("coordinator")))) == "ROSTER_SIGNATURES"
    one_of_three = signed(more, ROOT_KEYS[0])
    assert code_of(lambda: accept(one_of_three)) == "ROSTER_SIGNATURES"
    taken = sign_bytes(roster().to_bytes(), "application/other", *ROOT_KEYS).to_bytes()
    assert code_of(lambda: accept(taken)) == "DSSE_TYPE"
    accept(signed(more, *ROOT_KEYS[1:]))


def test_a_roster_with_one_signature_counted_twice() -> None:
    document = sign_bytes(roster().to_bytes(), ROSTER_TYPE, ROOT_KEYS[0])
    twice = replace(document, signatures={
        **document.signatures, ROOT_KEYS[1].key_id: next(iter(document.signatures.values()))})
    assert code_of(lambda: accept(twice.to_bytes())) == "ROSTER_SIGNATURES"


def test_roster_rollback_is_refused_also_when_the_old_file_is_put_back(tmp_path: Path) -> None:
    place = tmp_path / "p"
    held = trust(place, "site-0")
    held.roster.offer(signed(roster(3)), now=NOW)
    held.store.see_roster(3, roster(3).digest)
    assert code_of(lambda: held.roster.offer(signed(roster(2)), now=NOW)) == "ROSTER_ROLLBACK"
    assert TrustedRoster(place, now=NOW).current.version == 3
    (place / "roster.dsse").write_bytes(signed(roster(1)))
    old = TrustedRoster(place, now=NOW).current
    again = store(place / "envelopes.db")
    assert code_of(lambda: again.see_roster(old.version, old.digest)) == "ROSTER_ROLLBACK"


def test_a_party_that_does_not_start_leaves_no_file_open(tmp_path: Path) -> None:
    place = tmp_path / "trust"
    trust(place, "site-0").store.see_roster(3, roster(3).digest)
    (place / "party.txt").write_text("site-0")
    (place / "passphrase").write_bytes(PASSPHRASE)
    (place / "passphrase").chmod(0o600)
    write_identity(place / "identity.key", key("site-0"), passphrase=PASSPHRASE)
    OPENED.close()
    with all_closed_again(tmp_path):
        assert code_of(lambda: open_trust(tmp_path, clock=lambda: NOW)) == "ROSTER_ROLLBACK"


def test_two_rosters_of_one_version_and_an_expired_one(tmp_path: Path) -> None:
    held = trust(tmp_path, "site-0").roster
    fork = replace(roster(1), issued=5)
    assert code_of(lambda: held.offer(signed(fork), now=NOW)) == "ROSTER_FORK"
    frozen = replace(roster(2), expires=int(NOW) - 1000)
    assert code_of(lambda: held.offer(signed(frozen), now=NOW)) == "ROSTER_EXPIRED"


def test_a_fork_that_is_laid_into_the_folder_is_refused_each_time(tmp_path: Path) -> None:
    """The store refused it once, and the next message found it in force."""
    held = trust(tmp_path, "site-0")
    newer, fork = roster(2), replace(roster(2), issued=5)
    held.store.see_roster(newer.version, newer.digest)
    (tmp_path / "roster.dsse").write_bytes(signed(fork))
    assert [code_of(held.follow) for _ in range(2)] == ["ROSTER_FORK"] * 2
    assert held.roster.current.version == 1


def with_party(version: int, *changed: Party, **changes: object) -> object:
    given = {p.party_id: p for p in roster().parties} | {p.party_id: p for p in changed}
    return replace(roster(version), parties=tuple(given[k] for k in sorted(given)), **changes)


def test_a_key_is_replaced_only_with_the_old_ones_word_or_its_revocation() -> None:
    new = SigningIdentity("site-0", key("site-0-new")._private_key)
    silent, vouched = entry(new), entry(new, old=key("site-0"))
    assert code_of(lambda: require_successor(with_party(2, silent), roster())) == "ROSTER_ROTATION"
    forged = entry(new, old=key("site-1"))
    assert code_of(lambda: require_successor(with_party(2, forged), roster())) == "ROSTER_ROTATION"
    require_successor(with_party(2, vouched), roster())
    lost = with_party(2, silent, revoked=(key("site-0").key_id,))
    require_successor(lost, roster())
    back = with_party(3, silent)
    assert code_of(lambda: require_successor(back, lost)) == "ROSTER_UNREVOKED"


def test_an_entry_that_its_key_did_not_sign() -> None:
    stolen = replace(entry(key("site-0")), entity="Somebody Else")
    assert code_of(lambda: accept(signed(with_party(2, stolen)))) == "SIGNATURE_INVALID"


def test_a_new_root_needs_the_old_ones_word(tmp_path: Path) -> None:
    held = trust(tmp_path, "site-0").roster
    fresh = [key(f"fresh-{i}") for i in range(2)]
    other = Root(threshold=2, keys=tuple(sorted(k.public_key for k in fresh)))
    taken_over = replace(roster(2), root=other)
    assert code_of(lambda: held.offer(signed(taken_over, *fresh), now=NOW)) == "ROSTER_SIGNATURES"
    assert code_of(lambda: held.offer(signed(taken_over), now=NOW)) == "ROSTER_SIGNATURES"
    held.offer(signed(taken_over, *fresh, *ROOT_KEYS[:2]), now=NOW)
    again = TrustedRoster(tmp_path, now=NOW)
    assert again.current.root == other
    assert code_of(lambda: again.offer(signed(replace(roster(3))), now=NOW)) == "ROSTER_SIGNATURES"
    again.offer(signed(replace(roster(3), root=other), *fresh), now=NOW)


@pytest.mark.parametrize(("changes", "code"), [
    ({"revoked": (key("coordinator").key_id,)}, "KEY_REVOKED"), ({}, "KEY_EXPIRED"),
])
def test_revoked_and_expired_keys_sign_nothing(
    tmp_path: Path, changes: dict[str, object], code: str
) -> None:
    old = entry(key("coordinator"), "coordinator", valid_until=int(NOW) - 3600)
    newer = with_party(2, *(() if changes else (old,)), **changes)
    lab = Lab(tmp_path)
    for site in lab.hospitals.values():
        site.trust.roster.offer(signed(newer), now=NOW)
    assert same(lab.ready(), "ROSTER_ROLLBACK")  # the coordinator's own roster is too old
    address, request = lab.wire.requests[0]
    lab2 = Lab(tmp_path / "b")
    lab2.ready()
    address, request = next((a, m) for a, m in lab2.wire.requests if m.kind == "sealed")
    assert lab.hospitals[address].handle(request).fields["code"] == code


def test_a_newer_roster_travels_with_the_greeting(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.trust.roster.offer(signed(roster(2)), now=NOW)
    assert same(lab.ready(), "")
    assert all(h.trust.roster.current.version == 2 for h in lab.hospitals.values())


def without_coordinator(version: int) -> bytes:
    """A roster that revokes the coordinator."""
    given = roster(version, revoked=(key("coordinator").key_id,))
    return signed(replace(given, parties=tuple(
        party for party in given.parties if party.role != "coordinator")))


def test_a_roster_that_another_process_put_in_force_counts_at_once_and_stays(
    tmp_path: Path
) -> None:
    lab = Lab(tmp_path)
    assert same(lab.ready(), "")
    site, place = lab.hospitals["site-0"], tmp_path / "site-0"
    joining = TrustedRoster(place, now=NOW)  # `hospital join`, beside the running worker
    joining.offer(without_coordinator(3), now=NOW)
    greeting, request = (message for address, message in lab.wire.requests
                         if address == "site-0")
    assert site.handle(request).fields["code"] == "KEY_REVOKED"
    assert site.handle(greeting).fields["code"] == "ROSTER_ROLLBACK"
    older = replace(greeting, payload=signed(roster(2)))
    assert site.handle(older).fields["code"] == "ROSTER_ROLLBACK"
    assert TrustedRoster(place, now=NOW).current.version == 3
    (place / "roster.dsse").write_bytes(signed(roster(1)))  # put back under a running worker
    assert site.handle(greeting).fields["code"] == "ROSTER_ROLLBACK"


def test_under_an_expired_roster_greetings_alone_are_answered(tmp_path: Path) -> None:
    soon = roster(expires=int(NOW) + 1000)
    for name in ("coordinator", *SITES):
        trust(tmp_path / name, name, signed(soon)).close()
    lab = Lab(tmp_path)
    assert same(lab.ready(), "")
    greeting, request = (message for address, message in lab.wire.requests
                         if address == "site-0")
    inside = Inside("site-0")
    late = replace(trust(tmp_path / "site-0", "site-0"), clock=lambda: NOW + 2000,
                   roster=TrustedRoster(tmp_path / "site-0", now=0.0))
    site = SealedHospital(inside=inside, trust=late, policy=SitePolicy(), code_digest=CODE)
    assert site.handle(greeting).kind == HELLO
    assert site.handle(request).fields["code"] == "ROSTER_EXPIRED" and not inside.asked
    assert site.handle(replace(greeting, payload=signed(roster(2)))).kind == HELLO
    assert site.trust.roster.current.version == 2


def test_of_two_processes_that_take_rosters_the_newer_one_wins(tmp_path: Path) -> None:
    trust(tmp_path, "site-0")
    first, second = (TrustedRoster(tmp_path, now=NOW) for _ in range(2))
    first.offer(signed(roster(3)), now=NOW)
    assert code_of(lambda: second.offer(signed(roster(2)), now=NOW)) == "ROSTER_ROLLBACK"
    assert second.current.version == 3
    assert second.offer(signed(roster(4)), now=NOW).version == 4


def test_a_party_without_trust_folder_or_whose_key_others_can_read_does_not_start(
    tmp_path: Path
) -> None:
    assert code_of(lambda: open_trust(tmp_path)) == "TRUST_MISSING"
    place = tmp_path / "trust"
    trust(place, "site-0")
    (place / "party.txt").write_text("site-0")
    assert code_of(lambda: open_trust(tmp_path)) == "KEY_PASSPHRASE"
    (place / "passphrase").write_bytes(PASSPHRASE)
    (place / "passphrase").chmod(0o600)
    write_identity(place / "identity.key", key("site-0"), passphrase=PASSPHRASE)
    with closing(open_trust(tmp_path, clock=lambda: NOW)) as opened:
        assert opened.identity.party_id == "site-0"
    (place / "identity.key").chmod(0o644)
    assert code_of(lambda: open_trust(tmp_path)) == "KEY_FILE_MODE"


@pytest.mark.parametrize(("name", "now_in_force", "code"), [
    ("site-0", roster(2, revoked=(key("site-0").key_id,)), "KEY_REVOKED"),
    ("stranger", roster(2), "KEY_UNKNOWN"),
])
def test_a_party_whose_key_the_roster_does_not_name_does_not_start(
    tmp_path: Path, name: str, now_in_force: Roster, code: str,
) -> None:
    """What it signs is refused by all others, who then have to find out why."""
    place = tmp_path / "trust"
    trust(place, name)
    (place / "roster.dsse").write_bytes(signed(now_in_force))
    (place / "party.txt").write_text(name)
    (place / "passphrase").write_bytes(PASSPHRASE)
    (place / "passphrase").chmod(0o600)
    write_identity(place / "identity.key", key(name), passphrase=PASSPHRASE)
    OPENED.close()
    with all_closed_again(tmp_path):
        assert code_of(lambda: open_trust(tmp_path, clock=lambda: NOW)) == code


# -- bundle ------------------------------------------------------------------------------

STUB = '[tool.flwr.app]\npublisher = "medunlearn"\n'


@pytest.mark.parametrize(("files", "code"), [
    ({}, ""), ({"data/x.json": "{}"}, ""),
    ({"medunlearn_client/__init__.py": ""}, "BUNDLE_SHADOWS"),
    ({"medunlearn_common/ledger.py": ""}, "BUNDLE_SHADOWS"), ({"json.py": ""}, "BUNDLE_SHADOWS"),
    ({"numpy/__init__.py": ""}, "BUNDLE_SHADOWS"), ({"helper.py": ""}, "BUNDLE_HOLDS_CODE"),
    ({"evil.so": ""}, "BUNDLE_HOLDS_CODE"), ({"site.pyc": ""}, "BUNDLE_SHADOWS"),
])
def test_a_bundle_that_shadows_installed_code(
    tmp_path: Path, files: dict[str, str], code: str
) -> None:
    import sys
    (tmp_path / "pyproject.toml").write_text(STUB)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    path = [str(tmp_path), *sys.path]
    if code:
        assert code_of(lambda: require_installed_code(path)) == code
    else:
        require_installed_code(path)


# -- policy file and commands ------------------------------------------------------------

def test_policy_file_is_strict_and_its_template_reads_back() -> None:
    policy = SitePolicy()
    assert policy_from_bytes(policy_template(policy).encode()) == policy
    with pytest.raises(Misconfigured) as caught:  # a key as long as the file is not told in full
        policy_from_bytes(b"[privacy]\n" + b"a" * 100_000 + b" = 1")
    assert len(caught.value.message) < 2100
    for text, code in ((b"[privacy]\nmax_epsilonn = 1", "POLICY_INVALID"),
                       (b"[federation]\nmin_sites = 2", "POLICY_INVALID"),
                       (b"[privacy]\nmax_epsilon = nan", "POLICY_INVALID"),
                       (b"a = [", "POLICY_SYNTAX"), (b"\xff", "POLICY_SYNTAX"),
                       (b"#" * (1 << 19), "POLICY_SYNTAX")):
        assert code_of(lambda t=text: policy_from_bytes(t)) == code


def test_from_keys_to_a_verified_roster_by_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDUNLEARN_PASSPHRASE", PASSPHRASE.decode())
    runner = CliRunner()

    def run(app: Typer, *arguments: str) -> str:
        result = runner.invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    for name in ("r1", "r2"):
        run(keys_app, "new", f"{name}.key", "--party", name, "--entity", "Root", "--role", "root")
    run(keys_app, "new", "a.key", "--party", "clinic-a", "--entity", "Clinic A GmbH")
    run(roster_app, "new", "r1.key.entry", "r2.key.entry", "--threshold", "2")
    assert "clinic-a" in run(roster_app, "add", "a.key.entry")
    assert "1 of 2" in run(roster_app, "sign", "r1.key")
    with pytest.raises(Rejected):
        run(roster_app, "verify", "roster.dsse")
    assert "2 of 2" in run(roster_app, "sign", "r2.key")
    assert "valid" in run(roster_app, "verify", "roster.dsse")
    run(keys_app, "rotate", "a.key", "a2.key")
    run(roster_app, "add", "a2.key.entry", "--after", "roster.dsse")
    for name in ("r1", "r2"):
        run(roster_app, "sign", f"{name}.key", "--out", "next.dsse")
    assert "roster 2" in run(roster_app, "verify", "next.dsse", "--after", "roster.dsse")
    assert "revoked" in run(roster_app, "revoke", "clinic-a", "--after", "next.dsse")
    shown = run(keys_app, "show", "a2.key")
    assert "clinic-a" in shown and shown == run(keys_app, "show", "a2.key.entry")
    _, words = shown.split("telephone: ")
    assert words.count("-") == 7 and words not in run(keys_app, "show", "a.key")
    run(policy_app, "init")
    assert "valid" in run(policy_app, "check")
    assert len(run(policy_app, "digest").strip()) == 64
