"""Node keys against a SuperLink: what it refuses, or was told before a crash, locks nobody out.

Flower takes a key once in the life of its database: not again after it was unregistered.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_federation import Federation, new_node_key, three_sites

from medunlearn_common.errors import MedunlearnError, Transient
from medunlearn_common.processes import Children, wait_until
from medunlearn_server.answered import NODES_FILE
from medunlearn_server.service import registration as registration_module
from medunlearn_server.service.loopback_tls import new_loopback_tls
from medunlearn_server.service.node_keys import NodeKeys
from medunlearn_server.service.registration import Registration
from medunlearn_server.service.superlink import FlowerNode, SuperLink


class OnceOnly:
    """A SuperLink in memory, as strict about keys as Flower's."""

    def __init__(self) -> None:
        self.alive: dict[str, bytes] = {}
        self.taken_out: set[str] = set()
        self.used: set[bytes] = set()
        self.numbers = itertools.count(1)
        self.dies_after = -1

    def nodes(self) -> tuple[FlowerNode, ...]:
        return (*(FlowerNode(node_id=one, status="registered") for one in self.alive),
                *(FlowerNode(node_id=one, status="unregistered") for one in self.taken_out))

    def register(self, public_key: Path, *, name: str) -> str:
        key = b" ".join(public_key.read_bytes().split()[:2])
        if key in self.used:
            raise Transient("FLOWER_COMMAND", "Public key already in use.", "")
        node = str(next(self.numbers))
        self.alive[node] = key
        self.used.add(key)
        self.dies_after -= 1
        if self.dies_after == 0:
            raise KeyboardInterrupt  # the service is killed before it hears the answer
        return node

    def unregister(self, node_id: str) -> None:
        if node_id in self.taken_out:
            raise Transient("FLOWER_COMMAND", "[code: 24] Node ID not found for account", "")
        del self.alive[node_id]
        self.taken_out.add(node_id)


class Place:
    """Three hospitals' keys and what is remembered of them."""

    def __init__(self, root: Path) -> None:
        self.nodes, self.file = root / "nodes", root / NODES_FILE
        for site in ("a", "b", "c"):
            new_node_key(self.nodes, site)
        self.superlink = OnceOnly()

    def registration(self, superlink: SuperLink | None = None) -> Registration:
        return Registration(keys=NodeKeys(self.nodes), file=self.file,
                            superlink=superlink or self.superlink)  # type: ignore[arg-type]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def settled(registration: Registration) -> frozenset[str]:
    """Who is let in once the registration has nothing more to do."""
    registration.start()
    try:
        wait_until(lambda: registration.settled, deadline_s=5.0, what="registration")
    finally:
        registration.stop()
    return registration.registered()


def test_after_one_node_was_taken_out_others_are_still_let_in(place: Place) -> None:
    """Flower goes on listing it."""
    assert len(settled(place.registration())) == 3
    (place.nodes / "c.pub").unlink()
    assert settled(place.registration()) == {"a", "b"}
    new_node_key(place.nodes, "d")
    assert settled(place.registration()) == {"a", "b", "d"}


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_service_killed_while_it_registers_locks_no_hospital_out(
    place: Place, moment: int
) -> None:
    place.superlink.dies_after = moment
    with pytest.raises(KeyboardInterrupt):
        place.registration()._mend()
    assert len(place.superlink.alive) == moment
    assert len(place.registration().registered()) == moment - 1
    assert settled(place.registration()) == {"a", "b", "c"}


def test_a_hospital_whose_key_is_refused_keeps_no_other_out(place: Place) -> None:
    """It enrolled the node key of a friend, or one that it had before: no run ever began."""
    for line in ("a", "b"):
        (place.nodes / f"{line}.pub").write_bytes((place.nodes / "a.pub").read_bytes())
    registration = place.registration()
    assert settled(registration) == {"a", "c"}
    new_node_key(place.nodes, "b")  # it mends its key
    assert settled(place.registration()) == {"a", "b", "c"}


def test_a_refused_key_is_offered_again_after_a_pause_and_not_before(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each offer is a command to the SuperLink, which others wait for; it may mend itself."""
    clock, offered = [0.0], []
    monkeypatch.setattr(registration_module.time, "monotonic", lambda: clock[-1])
    register = place.superlink.register

    def refuses_b(public_key: Path, *, name: str) -> str:
        offered.append(name)
        if name == "b":
            raise Transient("FLOWER_COMMAND", "Public key already in use.", "")
        return register(public_key, name=name)

    monkeypatch.setattr(place.superlink, "register", refuses_b)
    registration = place.registration()
    for later_s in (0.0, 1.0, 59.0):
        clock.append(later_s)
        registration._mend()
        assert offered == ["a", "b", "c"]
    clock.append(61.0)
    registration._mend()
    assert offered == ["a", "b", "c", "b"]
    monkeypatch.setattr(place.superlink, "register", register)
    clock.append(122.0)
    registration._mend()
    assert registration.registered() == {"a", "b", "c"}


def test_a_node_that_nobody_enrolled_is_taken_out(place: Place) -> None:
    """Whoever could speak with the SuperLink once, or was let in before a restore."""
    assert settled(place.registration()) == {"a", "b", "c"}
    ours = set(place.superlink.alive)
    place.superlink.alive |= {"98": b"a stranger's", "99": b"another's"}
    assert settled(place.registration()) == {"a", "b", "c"}
    assert set(place.superlink.alive) == ours


def test_a_hospital_that_was_put_out_is_taken_out_of_the_superlink(place: Place) -> None:
    registration = place.registration()
    registration._mend()
    (place.nodes / "b.pub").unlink()
    registration._mend()
    assert registration.registered() == {"a", "c"} and len(place.superlink.alive) == 2


def test_an_answer_that_was_late_is_no_refusal(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = place.superlink.register

    def late(public_key: Path, *, name: str) -> str:
        register(public_key, name=name)
        raise Transient("FLOWER_COMMAND", "TimeoutExpired", "")

    monkeypatch.setattr(place.superlink, "register", late)
    assert settled(place.registration()) == {"a", "b", "c"}


def test_a_superlink_that_dies_while_a_node_is_registered_keeps_nobody_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither was the key taken, nor could anybody ask whether it was."""
    registration = place.registration()
    registration._mend()
    registration._settled.set()
    new_node_key(place.nodes, "d")

    def dies(public_key: Path, *, name: str) -> str:
        monkeypatch.setattr(place.superlink, "nodes", refuses)
        raise Transient("FLOWER_COMMAND", "connection refused", "")

    def refuses() -> tuple[FlowerNode, ...]:
        raise Transient("FLOWER_COMMAND", "connection refused", "")

    with monkeypatch.context() as patched:
        patched.setattr(place.superlink, "register", dies)
        with pytest.raises(Transient):
            registration._mend()
    monkeypatch.undo()
    registration._mend()
    assert registration.registered() == {"a", "b", "c", "d"}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, SuperLink]]:
    federation = Federation(tmp_path_factory.mktemp("registration"), three_sites())
    folder = federation.folder
    folder.state.mkdir()
    superlink = SuperLink(folder, new_loopback_tls(folder.state))
    superlink.prepare()
    children = Children([superlink.children()[0]])
    children.start()

    def answers() -> bool:
        try:
            superlink.nodes()
        except MedunlearnError:
            return False
        return True

    wait_until(answers, deadline_s=120.0, what="the SuperLink")
    yield federation, superlink
    children.stop()


@pytest.mark.flower
def test_a_real_superlink_takes_a_key_once_and_a_crash_is_mended(
    real: tuple[Federation, SuperLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, superlink = real
    nodes, file = federation.folder.nodes, federation.folder.state / NODES_FILE
    register = superlink.register

    def killed(public_key: Path, *, name: str) -> str:
        register(public_key, name=name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(superlink, "register", killed)
        with pytest.raises(KeyboardInterrupt):
            Registration(keys=NodeKeys(nodes), superlink=superlink, file=file)._mend()
    again = Registration(keys=NodeKeys(nodes), superlink=superlink, file=file)
    again._mend()
    assert again.registered() == {"hospital-0", "hospital-1", "hospital-2"}
    new_node_key(nodes, "hospital-3")
    superlink.unregister(superlink.register(nodes / "hospital-3.pub", name="hospital-3"))
    with pytest.raises(Transient):
        superlink.register(nodes / "hospital-3.pub", name="hospital-3")
    (nodes / "hospital-3.pub").unlink()
    (nodes / "hospital-2.pub").unlink()  # revoked
    new_node_key(nodes, "hospital-1")  # new keys
    new_node_key(nodes, "hospital-4")  # enrolled
    for registration in (again, Registration(keys=NodeKeys(nodes), superlink=superlink, file=file)):
        registration._mend()
        assert registration.registered() == {"hospital-0", "hospital-1", "hospital-4"}
