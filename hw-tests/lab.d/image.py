"""`lab build`: kernel, initramfs and root filesystem of the lab's machines, from Debian packages alone.

Two stages, each kept in the cache under a hash of its inputs: the *base* (Debian's packages, the slow one) and the
*image* (the base, our files of `image/root`, an ext4 filesystem). `image/packages` says what is asked for,
`image/packages.lock` which version of every package the lab was last tested with.
"""

import hashlib
import lzma
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import topology
from cpio import Archive
from topology import LabError

SUITE = "trixie"
RECIPE = topology.HERE / "image"
LOCK = RECIPE / "packages.lock"
ROOT_MIB = 1536
# Bases and images kept in the cache, about 0.4 GB each.
KEPT = 3
# What the initramfs needs to find the root filesystem; dependencies are looked up.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")
# Not installed from any package: nobody reads them in the lab, and they are half of the files.
LEFT_OUT = ("doc", "man", "info", "locale", "lintian", "bash-completion", "zsh")


@dataclass(frozen=True)
class Image:
    """A built image: three files that QEMU takes."""

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def initramfs(self) -> Path:
        return self.folder / "initramfs"

    @property
    def root(self) -> Path:
        return self.folder / "root.ext4"


def wanted_packages() -> list[str]:
    lines = (RECIPE / "packages").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def find() -> Image:
    """The image of the present inputs, which must have been built."""
    image = Image(topology.cache() / "images" / _image_key())
    if not image.folder.is_dir():
        raise LabError(f"{image.folder} is not there: no image of these inputs; run `lab build`")
    return image


def build(relock: bool) -> Image:
    """Builds what is not in the cache. With `relock`, takes whatever versions Debian has now and records them."""
    _need_programs()
    if relock or not LOCK.exists() or not _base_path().exists():
        _build_base(relock)
    image = Image(topology.cache() / "images" / _image_key())
    if image.folder.is_dir():
        print(f"image   {image.folder.name}  in the cache")
        return image
    began = time.monotonic()
    unfinished = image.folder.with_suffix(f".{os.getpid()}")
    try:
        _build_image(unfinished)
        unfinished.rename(image.folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(f"image   {image.folder.name}  built in {time.monotonic() - began:.1f} s")
    _forget_old()
    return image


def _forget_old() -> None:
    """Keeps the newest few of each kind; an image that the lab runs from is among them unless it is very old."""
    for kind in ("bases", "images"):
        entries = sorted((topology.cache() / kind).iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in [path for path in entries if path.suffix != ".log"][KEPT:]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()


def _need_programs() -> None:
    if os.geteuid() != 0:
        raise LabError("lab build makes device files and owners of root: run it as root")
    needed = ("mmdebstrap", "mkfs.ext4", "tar", "chroot")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        raise LabError(f"missing programs: {', '.join(missing)}; on Debian: apt install mmdebstrap e2fsprogs")


def _hash(parts: list[bytes]) -> str:
    # Each part with its length, so that no two lists of parts read alike.
    whole = b"".join(b"%d:%s" % (len(part), part) for part in parts)
    return hashlib.sha256(whole).hexdigest()[:16]


def _base_path() -> Path:
    lock = LOCK.read_bytes() if LOCK.exists() else b""
    key = _hash([SUITE.encode(), *(name.encode() for name in wanted_packages()), *(n.encode() for n in LEFT_OUT), lock])
    return topology.cache() / "bases" / f"{key}.tar"


def _image_key() -> str:
    parts = [_base_path().name.encode()]
    files = [Path(__file__), topology.HERE / "cpio.py", *sorted(path for path in RECIPE.rglob("*") if path.is_file())]
    for path in files:
        executable = b"x" if os.access(path, os.X_OK) else b"-"
        parts += [str(path.relative_to(topology.HERE)).encode(), executable, path.read_bytes()]
    return _hash(parts)


def _build_base(relock: bool) -> None:
    began = time.monotonic()
    folder = topology.cache() / "bases"
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"unfinished.{os.getpid()}.tar"
    command = ["mmdebstrap", "--mode=root", "--variant=apt", f"--include={','.join(wanted_packages())}"]
    command += ["--aptopt=Apt::Install-Recommends false", "--aptopt=Acquire::Languages none"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    # Without a mirror, mmdebstrap takes Debian's own, with updates and security.
    command += [SUITE, str(unfinished), *os.environ.get("LAB_MIRROR", "").split()]
    log = folder / "mmdebstrap.log"
    try:
        with log.open("wb") as output:
            # INITRD=No: the kernel's package would make an initramfs that nobody boots.
            done = subprocess.run(command, stdout=output, stderr=output, env=os.environ | {"INITRD": "No"}, check=False)
        if done.returncode != 0:
            raise LabError(f"mmdebstrap failed with {done.returncode}: see {log}")
        _check_versions(_installed(unfinished), relock)
        unfinished.rename(_base_path())
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"base    {_base_path().name}  built in {time.monotonic() - began:.1f} s")


def _installed(base: Path) -> dict[str, str]:
    """Name -> version of every package in the base."""
    command = ["tar", "-xOf", str(base), "./var/lib/dpkg/status"]
    status = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status") == "install ok installed":
            found[fields["Package"]] = fields["Version"]
    return found


def _check_versions(found: dict[str, str], relock: bool) -> None:
    text = "".join(f"{name} {version}\n" for name, version in sorted(found.items()))
    if relock or not LOCK.exists():
        LOCK.write_text(text)
        return
    locked = dict(line.split() for line in LOCK.read_text().splitlines())
    if locked == found:
        return
    names = sorted(name for name in locked | found if locked.get(name) != found.get(name))
    shown = ", ".join(f"{name} {locked.get(name, 'absent')} -> {found.get(name, 'absent')}" for name in names[:8])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    raise LabError(
        f"Debian has other versions than {LOCK.name}: {shown}{more}. Run `lab build --relock` to take them "
        "(then run the lab's tests and commit the file), or set LAB_MIRROR to an archive that has the old ones"
    )


def _build_image(folder: Path) -> None:
    tree = folder / "tree"
    tree.mkdir(parents=True)
    subprocess.run(["tar", "-xf", str(_base_path()), "-C", str(tree)], check=True)
    shutil.copytree(RECIPE / "root", tree, dirs_exist_ok=True)
    _settle_units(tree)
    release = _unpack_modules(tree)
    _write_initramfs(tree, release, folder / "initramfs")
    shutil.copy(tree / "boot" / f"vmlinuz-{release}", folder / "kernel")
    shutil.rmtree(tree / "boot")
    shutil.rmtree(tree / "var/lib/apt/lists", ignore_errors=True)
    root = folder / "root.ext4"
    with root.open("wb") as file:
        file.truncate(ROOT_MIB << 20)
    command = ["mkfs.ext4", "-q", "-F", "-L", "lab", "-E", "lazy_itable_init=1,lazy_journal_init=1"]
    subprocess.run([*command, "-d", str(tree), str(root)], check=True)
    shutil.rmtree(tree)


def _settle_units(tree: Path) -> None:
    """Enables our units and masks what only costs time."""
    # Not "uninitialized": systemd would take each boot for the first one and enable every unit again.
    (tree / "etc/machine-id").write_text(hashlib.sha256(b"failoverd-lab").hexdigest()[:32] + "\n")
    (tree / "etc/hostname").write_text("lab\n")
    (tree / "etc/fstab").write_text("")
    masked = [line for line in (RECIPE / "mask").read_text().split("\n") if line and line[0] != "#"]
    (tree / "etc/systemd/system-generators").mkdir(exist_ok=True)
    for unit in masked:
        folder = "system-generators" if unit.endswith("-generator") else "system"
        link = tree / "etc/systemd" / folder / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    wants = tree / "etc/systemd/system/multi-user.target.wants"
    for unit in (RECIPE / "root/etc/systemd/system").glob("lab-*.service"):
        (wants / unit.name).symlink_to(f"/etc/systemd/system/{unit.name}")
    (tree / "etc/systemd/system/default.target").unlink(missing_ok=True)
    (tree / "etc/systemd/system/default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()


def _unpack_modules(tree: Path) -> str:
    """Decompresses the kernel's modules, which is slow under emulation. Answers the kernel's release."""
    releases = sorted(path.name for path in (tree / "usr/lib/modules").iterdir())
    if len(releases) != 1:
        raise LabError(f"the base holds {len(releases)} kernels ({', '.join(releases)}); the lab needs exactly one")
    for packed in (tree / "usr/lib/modules" / releases[0]).rglob("*.ko.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    subprocess.run(["chroot", str(tree), "depmod", releases[0]], check=True)
    return releases[0]


def _write_initramfs(tree: Path, release: str, path: Path) -> None:
    archive = Archive()
    for folder in ("bin", "dev", "modules", "proc", "root", "sys"):
        archive.folder(folder)
    archive.console()
    archive.file("bin/busybox", (tree / "usr/bin/busybox").read_bytes(), 0o755)
    archive.file("init", (RECIPE / "init").read_bytes(), 0o755)
    order: list[Path] = []
    for module in BOOT_MODULES:
        command = ["chroot", str(tree), "modprobe", "-S", release, "--show-depends", module]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for line in shown.splitlines():
            # "insmod PATH" or "builtin NAME".
            kind, _, rest = line.partition(" ")
            file = tree / rest.strip().lstrip("/")
            if kind == "insmod" and file not in order:
                order.append(file)
    for file in order:
        archive.file(f"modules/{file.name}", file.read_bytes())
    archive.file("modules/order", "".join(f"{file.name}\n" for file in order).encode())
    archive.write(path)
