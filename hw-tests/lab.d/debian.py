"""Debian's packages: a root filesystem of chosen ones, and the lock that says which versions the lab was tested with.

Only the suite's point release and its backports are asked, never its security updates: those move every week and keep
no older version, and the lab's machines reach no network that could attack them.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import topology
from topology import LabError

SUITE = "trixie"
ARCHIVE = "http://deb.debian.org/debian"
# Not installed from any package: nobody reads them in the lab, and they are half of the files.
LEFT_OUT = ("doc", "man", "info", "locale", "lintian", "bash-completion", "zsh")


def need_programs() -> None:
    if os.geteuid() != 0:
        raise LabError("lab build makes device files and owners of root: run it as root")
    needed = ("mmdebstrap", "mkfs.ext4", "tar", "chroot")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        raise LabError(f"missing programs: {', '.join(missing)}; on Debian: apt install mmdebstrap e2fsprogs")


def sources() -> list[str]:
    archive = os.environ.get("LAB_MIRROR") or ARCHIVE
    return [f"deb {archive} {SUITE} main", f"deb {archive} {SUITE}-backports main contrib"]


@dataclass(frozen=True)
class Wish:
    """A root filesystem on paper."""

    packages: tuple[str, ...]  # beside Debian's essential ones
    backported: tuple[str, ...]  # source packages whose backport is wanted
    lock: Path  # names the version of every package that the lab was last tested with

    def locked(self) -> dict[str, str]:
        """Name -> version; empty where nothing is recorded."""
        if not self.lock.exists():
            return {}
        return dict(line.split() for line in self.lock.read_text().splitlines())

    def inputs(self) -> list[bytes]:
        """All that decides what comes out."""
        parts = [SUITE, backports(self.backported), *self.packages, *LEFT_OUT]
        return [*(part.encode() for part in parts), self.lock.read_bytes() if self.lock.exists() else b""]


def wish(name: str, backported: tuple[str, ...]) -> Wish:
    """What `image/NAME` lists, with its lock beside it."""
    path = topology.HERE / "image" / name
    lines = [line.strip() for line in path.read_text().splitlines()]
    packages = tuple(line for line in lines if line and not line.startswith("#"))
    return Wish(packages, backported, path.with_name(f"{name}.lock"))


def backports(names: tuple[str, ...]) -> str:
    """Preferences that take these source packages from the backports."""
    # By codename: a pin on the archive's name for backports ("a=") matches nothing and silently takes the older ZFS.
    packages = " ".join(f"src:{name}" for name in names)
    return f"Package: {packages}\nPin: release n={SUITE}-backports\nPin-Priority: 600\n"


def bootstrap(target: Path, wish: Wish, log: Path, pins: dict[str, str], more: list[str]) -> None:
    """Runs mmdebstrap, with `more` of its options. A pinned version is taken wherever the archive still has it."""
    command = ["mmdebstrap", "--mode=root", "--variant=apt", f"--include={','.join(wish.packages)}", *more]
    command += ["--aptopt=Apt::Install-Recommends false", "--aptopt=Acquire::Languages none"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    pinned = [f"Package: {name}\nPin: version {version}\nPin-Priority: 1001\n" for name, version in pins.items()]
    stanzas = [backports(wish.backported), *pinned]
    with tempfile.TemporaryDirectory() as folder, log.open("wb") as output:
        preferences = Path(folder) / "lab"
        preferences.write_text("\n".join(stanzas))
        command += ['--setup-hook=mkdir -p "$1/etc/apt/preferences.d"']
        command += [f"--setup-hook=copy-in {preferences} /etc/apt/preferences.d"]
        # INITRD=No: the kernel's package would make an initramfs that nobody boots.
        done = subprocess.run(
            [*command, SUITE, str(target), *sources()],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | {"INITRD": "No"}, check=False,
        )
    if done.returncode != 0:
        raise LabError(f"mmdebstrap failed with {done.returncode}: see {log}")
    log.unlink()


def installed(base: Path) -> dict[str, str]:
    """Name -> version of every package in an archive of a root filesystem."""
    command = ["tar", "-xOf", str(base), "./var/lib/dpkg/status"]
    status = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status") == "install ok installed":
            found[fields["Package"]] = fields["Version"]
    return found


def check_versions(wish: Wish, found: dict[str, str], relock: bool) -> None:
    """Records what was found where nothing is recorded or `relock` says so; another version than recorded is an error."""
    if relock or not wish.lock.exists():
        wish.lock.write_text("".join(f"{name} {version}\n" for name, version in sorted(found.items())))
        return
    wanted = wish.locked()
    if wanted == found:
        return
    names = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    shown = ", ".join(f"{name} {wanted.get(name, 'absent')} -> {found.get(name, 'absent')}" for name in names[:8])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    raise LabError(
        f"Debian has other versions than {wish.lock.name}: {shown}{more}. Run `lab build --relock` to take them "
        "(then run the lab's tests and commit the file), or set LAB_MIRROR to an archive that has the old ones"
    )
