"""The kernel modules of OpenZFS, built for the very kernel of the image.

Debian has them as source only. They are compiled in a root filesystem of their own, with a compiler and the kernel's
headers, that is thrown away afterwards: some 3 MB come out of it, after minutes. So they are kept by themselves, under a
hash of the kernel's version, the version of ZFS and this recipe.
"""

import os
import time
from pathlib import Path

import debian
import topology
from topology import LabError

BUILD = topology.HERE / "image" / "zfs-modules"
SOURCES = ("zfs-linux",)
KERNEL = "linux-image-"


def inputs(root: debian.Wish) -> list[bytes]:
    """All that decides what the modules for the kernel of this root filesystem are."""
    return [*(part.encode() for part in _wanted(root)), debian.backports(SOURCES).encode(), BUILD.read_bytes()]


def build(root: debian.Wish, target: Path) -> None:
    """Makes an archive of usr/lib/modules/RELEASE/updates with zfs.ko and spl.ko."""
    began = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    release, kernel, version = _wanted(root)
    unfinished = target.parent / f"unfinished.{os.getpid()}.tar"
    headers = f"linux-headers-{release}"
    hooks = [
        f"--customize-hook=copy-in {BUILD} /usr/local/sbin",
        f'--customize-hook=chroot "$1" /usr/local/sbin/zfs-modules {release} {version}',
        f"--customize-hook=download /modules.tar {unfinished}",
    ]
    try:
        # Nothing else comes out of that root filesystem.
        pins = {"zfs-dkms": version, headers: kernel}
        builder = debian.Wish((headers, "zfs-dkms"), SOURCES, root.lock)
        debian.bootstrap(Path("/dev/null"), builder, unfinished.with_suffix(".log"), pins, hooks)
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"modules {target.name}  ZFS {version} for {release}, built in {time.monotonic() - began:.1f} s")


def _wanted(root: debian.Wish) -> tuple[str, str, str]:
    """The kernel's release and version, and the version of ZFS."""
    packages = root.locked()
    # linux-image-6.12.117+deb13-cloud-amd64 holds a kernel; linux-image-cloud-amd64 only names the newest one.
    kernels = [name for name in packages if name.startswith(KERNEL) and name[len(KERNEL)].isdecimal()]
    if len(kernels) != 1 or "zfsutils-linux" not in packages:
        raise LabError(f"{root.lock} names {len(kernels)} kernels and zfsutils-linux {packages.get('zfsutils-linux', 'not')}: "
                       "the lab needs one of each; `lab build --relock` writes it")
    return kernels[0].removeprefix(KERNEL), packages[kernels[0]], packages["zfsutils-linux"]
