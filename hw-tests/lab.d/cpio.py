"""Writes an initramfs: an uncompressed cpio archive in the kernel's "newc" form."""

import stat
from pathlib import Path


class Archive:
    """Collects entries; `write` ends it. Owners are root, times are zero, so equal inputs give equal bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def folder(self, name: str) -> None:
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._entry(name, stat.S_IFREG | mode, content)

    def console(self) -> None:
        # The kernel opens it as standard output of init before anything is mounted.
        self._entry("dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1))

    def write(self, path: Path) -> None:
        self._entry("TRAILER!!!", 0, b"")
        path.write_bytes(b"".join(self._parts))

    def _entry(self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        label = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(label), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [_padded(head + label), _padded(content)]


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
