"""What goes wrong with a machine: its disk, its clock, its installation."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import medunlearn_common
from medunlearn_common.code_digest import PACKAGES, package_folder
from medunlearn_simulation.rehearsal.parties import Party

_CLOCK = Path(__file__).with_name("other_clock.c")
_BALLAST = "ballast"


@dataclass(frozen=True, kw_only=True)
class SmallDisk:
    """A file system of its own under a party's folder."""

    folder: Path

    @classmethod
    @contextmanager
    def under(cls, folder: Path, *, mib: int = 192) -> Iterator[SmallDisk]:
        """Move a folder onto a small file system, in place; before its service starts."""
        aside = folder.with_name(f"{folder.name}.aside")
        folder.rename(aside)
        folder.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs",
                        str(folder)], check=True, timeout=20)
        try:
            shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
            yield cls(folder=folder)
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=False, timeout=20)

    def fill(self) -> None:
        """To the last byte."""
        with (self.folder / _BALLAST).open("ab", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12, 1):
                block = bytes(size)
                try:
                    while ballast.write(block) == size:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """Room again."""
        (self.folder / _BALLAST).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class OtherClock:
    """The wall clock of all of a party's processes, which a test may move while they run.

    Their C library is told another time of day (LD_PRELOAD's system-wide form, in a mount
    namespace of the party's own). The kernel's clock and monotonic time stay as they are.
    """

    shared: Path

    @classmethod
    def prepare(cls, party: Party) -> None:
        """Before its service starts; does nothing without a C compiler."""
        if shutil.which("gcc") is None:
            return
        place = cls.of(party).shared.parent
        shutil.copytree("/etc", place / "etc", symlinks=True, ignore_dangling_symlinks=True)
        library = place / "other_clock.so"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_CLOCK)],
                       check=True, timeout=60)
        (place / "offset").write_bytes(struct.pack("=q", 0))
        (place / "etc" / "ld.so.preload").write_text(f"{library}\n")
        (place / "etc" / "medunlearn-offset").symlink_to(place / "offset")
        party.through = ("sh", "-c", f'mount --bind {place / "etc"} /etc && exec "$@"', "clock")

    @classmethod
    def of(cls, party: Party) -> OtherClock:
        """The clock of a party that was prepared; skips where it could not be."""
        place = party.folder.with_name(f"{party.name}.clock")
        place.mkdir(exist_ok=True)
        return cls(shared=place / "offset")

    def set_off(self, seconds: int) -> None:
        """Move it; all processes see it at once."""
        if not self.shared.exists():
            pytest.skip("no C compiler: a party's clock cannot be moved")
        with self.shared.open("r+b") as file, mmap.mmap(file.fileno(), 8) as offset:
            offset[:] = struct.pack("=q", seconds)


def other_packages(folder: Path, *, version: str) -> tuple[Path, ...]:
    """A copy of the running packages with another version; what goes onto an import path."""
    places = []
    for name in PACKAGES:
        found = package_folder(name)
        assert found is not None
        place = folder / found.parent.name
        shutil.copytree(found, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        places.append(place)
    init = next(p for p in places if (p / "medunlearn_common").exists())
    file = init / "medunlearn_common" / "__init__.py"
    file.write_text(file.read_text("utf-8").replace(
        f'"{medunlearn_common.__version__}"', f'"{version}"'), "utf-8")
    return tuple(dict.fromkeys(places))
