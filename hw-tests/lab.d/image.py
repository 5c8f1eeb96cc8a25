"""`lab build`: kernel, initramfs and root filesystem of the lab's machines, from Debian packages alone.

Three stages, each kept in the cache under a hash of its inputs: the *base* (Debian's packages), the *modules* (ZFS for
the base's kernel, the slow one) and the *image* (both, our files of `image/root`, an ext4 filesystem). `image/packages`
says what is asked for, `image/packages.lock` which version of every package the lab was last tested with.
"""

import hashlib
import lzma
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import debian
import topology
import zfs
from cpio import Archive
from topology import LabError

RECIPE = topology.HERE / "image"
ROOT_MIB = 1536
# Bases and images kept in the cache, about 0.5 GB each.
KEPT = 6
# What the initramfs needs to find the root filesystem; dependencies are looked up.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")


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
    debian.need_programs()
    if relock or not debian.LOCK.exists() or not _base_path().exists():
        _build_base(relock)
    if not zfs.modules_path(_hash).exists():
        zfs.build(zfs.modules_path(_hash))
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
    for kind in ("bases", "modules", "images"):
        entries = sorted((topology.cache() / kind).iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in [path for path in entries if path.suffix != ".log"][KEPT:]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()


def _hash(parts: list[bytes]) -> str:
    # Each part with its length, so that no two lists of parts read alike.
    whole = b"".join(b"%d:%s" % (len(part), part) for part in parts)
    return hashlib.sha256(whole).hexdigest()[:16]


def _base_path() -> Path:
    lock = debian.LOCK.read_bytes() if debian.LOCK.exists() else b""
    parts = [debian.SUITE, debian.BACKPORTED, *wanted_packages(), *debian.LEFT_OUT]
    return topology.cache() / "bases" / f"{_hash([*(part.encode() for part in parts), lock])}.tar"


def _image_key() -> str:
    parts = [_base_path().name.encode(), zfs.modules_path(_hash).name.encode()]
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
    pins = {} if relock else debian.locked()
    try:
        debian.bootstrap(unfinished, wanted_packages(), unfinished.with_suffix(".log"), pins, [])
        debian.check_versions(debian.installed(unfinished), relock)
        unfinished.rename(_base_path())
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"base    {_base_path().name}  built in {time.monotonic() - began:.1f} s", flush=True)


def _build_image(folder: Path) -> None:
    tree = folder / "tree"
    tree.mkdir(parents=True)
    for archive in (_base_path(), zfs.modules_path(_hash)):
        subprocess.run(["tar", "-xf", str(archive), "-C", str(tree)], check=True)
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
        kinds = {"-generator": "systemd/system-generators", ".rules": "udev/rules.d", ".conf": "modules-load.d"}
        folder = next((folder for end, folder in kinds.items() if unit.endswith(end)), "systemd/system")
        link = tree / "etc" / folder / unit
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
