# SPDX-License-Identifier: GPL-2.0
"""Writes cpio archives of the "newc" kind, the only kind the kernel takes as an initramfs.

Written here rather than with cpio(1) so that no program is missing on a bare host, and so that device nodes and root's
ownership get into the archive without being root.
"""

import os
import stat


class Archive:
    """An archive under construction. Paths are relative, without a leading slash; folders are added as they are needed."""

    def __init__(self, out):
        self.out = out
        self.inode = 0
        self.seen = set()

    def _entry(self, path, mode, data=b"", rdev=(0, 0)):
        name = path.encode() + b"\0"
        self.inode += 1
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(name), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self.out.write(header + name + bytes(-(len(header) + len(name)) % 4))
        self.out.write(data)
        self.out.write(bytes(-len(data) % 4))

    def folder(self, path, mode=0o755):
        path = path.strip("/")
        if not path or path in self.seen:
            return
        self.folder(os.path.dirname(path))
        self.seen.add(path)
        self._entry(path, stat.S_IFDIR | mode)

    def _claim(self, path):
        path = path.strip("/")
        self.folder(os.path.dirname(path))
        return path

    def file(self, path, data, mode=0o644):
        self._entry(self._claim(path), stat.S_IFREG | mode, data)

    def link(self, path, target):
        self._entry(self._claim(path), stat.S_IFLNK | 0o777, target.encode())

    def device(self, path, kind, major, minor, mode=0o600):
        self._entry(self._claim(path), kind | mode, rdev=(major, minor))

    def copy(self, source, path):
        """Adds a file or a link as it is on the disk."""
        info = os.lstat(source)
        if stat.S_ISLNK(info.st_mode):
            self.link(path, os.readlink(source))
        elif stat.S_ISREG(info.st_mode):
            with open(source, "rb") as file:
                self.file(path, file.read(), stat.S_IMODE(info.st_mode))
        elif stat.S_ISDIR(info.st_mode):
            self.folder(path, stat.S_IMODE(info.st_mode))

    def tree(self, source, path=""):
        """Adds everything below a folder, under `path`."""
        for folder, folders, files in os.walk(source):
            folders.sort()
            inside = os.path.normpath(os.path.join(path, os.path.relpath(folder, source)))
            if inside != ".":
                self.folder(inside)
            for name in sorted(files) + [name for name in folders if os.path.islink(os.path.join(folder, name))]:
                self.copy(os.path.join(folder, name), os.path.normpath(os.path.join(inside, name)))

    def close(self):
        self._entry("TRAILER!!!", 0)
        self.out.write(bytes(-self.out.tell() % 512))
