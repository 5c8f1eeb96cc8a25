"""`lab build`: kernel, initramfs and root filesystem of the lab's machines, from Debian packages alone.

Three stages, each kept in the cache under a hash of its inputs: the *base* (Debian's packages), the *modules* (ZFS for
the base's kernel, the slow one) and the *image* (both, our files of `image/root`, an ext4 filesystem). `image/packages`
says what is asked for, `image/packages.lock` which version of every package the lab was last tested with.

There are two kinds: "packages" is every machine's; "packages-nvme" is an enclosure's that serves NVMe disks, whose
reservations need a newer kernel than the controllers have. It has no ZFS.
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


WISHES = {
    "packages": debian.wish("packages", zfs.SOURCES),
    "packages-nvme": debian.wish("packages-nvme", ("linux", "linux-base", "linux-signed-amd64")),
}


def find(kind: str = "packages") -> Image:
    """The image of the present inputs, which must have been built."""
    image = Image(topology.cache() / "images" / _image_key(kind))
    if not image.folder.is_dir():
        nvme = " --nvme" if kind == "packages-nvme" else ""
        raise LabError(f"{image.folder} is not there: no image of these inputs; run `lab build{nvme}`")
    return image


def build(relock: bool, kind: str = "packages") -> Image:
    """Builds what is not in the cache. With `relock`, takes whatever versions Debian has now and records them."""
    debian.need_programs()
    wish = WISHES[kind]
    if relock or not wish.lock.exists() or not _base_path(wish).exists():
        _build_base(wish, relock)
    if _has_zfs(wish) and not _modules_path(wish).exists():
        zfs.build(wish, _modules_path(wish))
    image = Image(topology.cache() / "images" / _image_key(kind))
    if image.folder.is_dir():
        print(f"image   {image.folder.name}  in the cache")
        return image
    began = time.monotonic()
    unfinished = image.folder.with_suffix(f".{os.getpid()}")
    try:
        _build_image(wish, unfinished)
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


def _has_zfs(wish: debian.Wish) -> bool:
    return "zfsutils-linux" in wish.packages


def _base_path(wish: debian.Wish) -> Path:
    return topology.cache() / "bases" / f"{_hash(wish.inputs())}.tar"


def _modules_path(wish: debian.Wish) -> Path:
    return topology.cache() / "modules" / f"{_hash(zfs.inputs(wish))}.tar"


def _archives(wish: debian.Wish) -> list[Path]:
    """What the image's root filesystem is laid out from, in this order."""
    return [_base_path(wish), *([_modules_path(wish)] if _has_zfs(wish) else [])]


def _image_key(kind: str) -> str:
    parts = [path.name.encode() for path in _archives(WISHES[kind])]
    # The lists of packages are in the base's name already.
    recipe = sorted(path for path in RECIPE.rglob("*") if path.is_file() and not path.name.startswith("packages"))
    for path in (Path(__file__), topology.HERE / "cpio.py", *recipe):
        executable = b"x" if os.access(path, os.X_OK) else b"-"
        parts += [str(path.relative_to(topology.HERE)).encode(), executable, path.read_bytes()]
    return _hash(parts)


def _build_base(wish: debian.Wish, relock: bool) -> None:
    began = time.monotonic()
    folder = topology.cache() / "bases"
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"unfinished.{os.getpid()}.tar"
    pins = {} if relock else wish.locked()
    try:
        debian.bootstrap(unfinished, wish, unfinished.with_suffix(".log"), pins, [])
        debian.check_versions(wish, debian.installed(unfinished), relock)
        unfinished.rename(_base_path(wish))
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"base    {_base_path(wish).name}  built in {time.monotonic() - began:.1f} s", flush=True)


def _build_image(wish: debian.Wish, folder: Path) -> None:
    tree = folder / "tree"
    tree.mkdir(parents=True)
    for archive in _archives(wish):
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
        kinds = {"-generator": "systemd/system-generators", ".rules": "udev/rules.d"}
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
    # One for all machines, made here: there is nobody to be fooled by it, and the machines are slow.
    subprocess.run(["chroot", str(tree), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key"], check=True)
    for folder in ("root", "root/.ssh"):
        (tree / folder).chmod(0o700)


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
