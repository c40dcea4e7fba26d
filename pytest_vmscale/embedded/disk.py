"""A guest's disk: the few files that somebody put there, and large ones of which only the size is known."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field

FOLDERS = ("/", "/etc", "/home", "/proc", "/root", "/tmp", "/var", "/var/tmp")

Content = bytes | Callable[[], bytes]  # a result that is worked out when it is first read


@dataclass(frozen=True)
class Bulk:
    """Files below one folder whose content nobody reads: a dataset."""

    files: int
    file_bytes: int

    @property
    def bytes(self) -> int:
        return self.files * self.file_bytes


@dataclass
class Disk:
    """`size_bytes` in all, of which the image takes `system_bytes`. Paths are absolute. Errors are OSError with their number."""

    size_bytes: int
    system_bytes: int
    _files: dict[str, Content] = field(default_factory=dict)
    _folders: set[str] = field(default_factory=lambda: set(FOLDERS))
    _bulks: dict[str, Bulk] = field(default_factory=dict)

    @property
    def used_bytes(self) -> int:
        """What is to be worked out yet counts nothing: nobody fills a disk with results."""
        small = sum(len(content) for content in self._files.values() if isinstance(content, bytes))
        return self.system_bytes + small + sum(bulk.bytes for bulk in self._bulks.values())

    @property
    def free_bytes(self) -> int:
        return max(0, self.size_bytes - self.used_bytes)

    @property
    def blank(self) -> bool:
        """Whether nobody has put anything there."""
        return not self._files and not self._bulks

    def is_file(self, path: str) -> bool:
        return path in self._files

    def is_folder(self, path: str) -> bool:
        return path in self._folders or posixpath.dirname(path) == "/home"  # whoever logs in has a home

    def exists(self, path: str) -> bool:
        return self.is_file(path) or self.is_folder(path)

    def size(self, path: str) -> int:
        return len(self.read(path)) if self.is_file(path) else 4096

    def read(self, path: str) -> bytes:
        content = self._files.get(path)
        if content is None:
            raise _error(errno.EISDIR if self.is_folder(path) else errno.ENOENT, path)
        if not isinstance(content, bytes):
            content = self._files[path] = content()
        return content

    def write(self, path: str, content: Content, append: bool = False) -> None:
        if self.is_folder(path):
            raise _error(errno.EISDIR, path)
        if not self.is_folder(posixpath.dirname(path)):
            raise _error(errno.ENOENT, path)
        if isinstance(content, bytes) and content and len(content) > self.free_bytes:
            raise _error(errno.ENOSPC, path)
        if append and self.is_file(path) and isinstance(content, bytes):
            content = self.read(path) + content
        self._files[path] = content

    def make_folder(self, path: str, parents: bool = False) -> None:
        above = posixpath.dirname(path)
        if self.exists(path):
            if parents and self.is_folder(path):
                return
            raise _error(errno.EEXIST, path)
        if not self.is_folder(above):
            if not parents:
                raise _error(errno.ENOENT, path)
            self.make_folder(above, parents=True)
        self._folders.add(path)

    def names(self, folder: str) -> list[str]:
        """What is in a folder."""
        if not self.is_folder(folder):
            raise _error(errno.ENOTDIR if self.is_file(folder) else errno.ENOENT, folder)
        inside = {*self._files, *self._folders} - {"/"}
        return sorted(posixpath.basename(path) for path in inside if posixpath.dirname(path) == folder)

    def remove(self, path: str) -> None:
        if not self.is_file(path):
            raise _error(errno.EISDIR if self.is_folder(path) else errno.ENOENT, path)
        del self._files[path]

    def remove_tree(self, path: str) -> None:
        """All at and below this path; nothing happens if there is nothing."""
        def inside(each: str) -> bool:
            return each == path or each.startswith(path.rstrip("/") + "/")

        self._files = {each: content for each, content in self._files.items() if not inside(each)}
        self._bulks = {each: bulk for each, bulk in self._bulks.items() if not inside(each)}
        self._folders = {each for each in self._folders if not inside(each) or each in FOLDERS}

    def rename(self, path: str, to: str) -> None:
        content = self._files.get(path)
        if content is None:
            raise _error(errno.ENOENT, path)
        self.write(to, content)
        del self._files[path]

    # Datasets.

    def bulk(self, folder: str) -> Bulk | None:
        """The dataset in this folder or below it."""
        return next((bulk for where, bulk in self._bulks.items() if where == folder or where.startswith(folder + "/")), None)

    def fill(self, folder: str, bulk: Bulk) -> None:
        """Put a dataset there, in place of one that was there before. ENOSPC if it does not fit."""
        if not self.is_folder(folder):
            raise _error(errno.ENOENT, folder)
        before = self._bulks.get(folder)
        if bulk.bytes > self.free_bytes + (before.bytes if before else 0):
            raise _error(errno.ENOSPC, folder)
        self._bulks[folder] = bulk


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
