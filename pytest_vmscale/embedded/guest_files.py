"""SFTP on a guest's disk."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncssh

from .disk import Disk


@dataclass(eq=False)
class OpenFile:
    path: str
    content: bytearray
    changed: bool = False


class Sftp(asyncssh.SFTPServer):
    """Errors are OSError, which asyncssh turns into SFTP's. Relative paths are below the user's home."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], disk: Disk) -> None:
        super().__init__(channel)
        self._disk = disk
        user = channel.get_extra_info("username")
        self._home = "/root" if user == "root" else f"/home/{user}"

    def exit(self) -> None:
        """The program sftp-server ends well: without a status scp takes it for failed."""
        self.channel.exit(0)

    def _path(self, path: bytes) -> str:
        return posixpath.normpath(posixpath.join(self._home, path.decode(errors="replace")))

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> OpenFile:
        name = self._path(path)
        if pflags & asyncssh.FXF_EXCL and self._disk.exists(name):
            raise FileExistsError(17, "File exists", name)
        if pflags & asyncssh.FXF_CREAT and (pflags & asyncssh.FXF_TRUNC or not self._disk.is_file(name)):
            self._disk.write(name, b"")
        file = OpenFile(name, bytearray(self._disk.read(name)))
        if pflags & asyncssh.FXF_TRUNC:
            file.content.clear()
            file.changed = True
        return file

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        assert isinstance(file_obj, OpenFile)
        return bytes(file_obj.content[offset:offset + size])

    def write(self, file_obj: object, offset: int, data: bytes) -> int:
        assert isinstance(file_obj, OpenFile)
        content = file_obj.content
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset:offset + len(data)] = data
        self._disk.write(file_obj.path, bytes(content))
        return len(data)

    def close(self, file_obj: object) -> None:
        pass

    def fstat(self, file_obj: object) -> asyncssh.SFTPAttrs:
        assert isinstance(file_obj, OpenFile)
        return _attributes(False, len(file_obj.content))

    def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        name = self._path(path)
        if not self._disk.exists(name):
            raise FileNotFoundError(2, "No such file or directory", name)
        return _attributes(self._disk.is_folder(name), self._disk.size(name))

    lstat = stat

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        """Modes and times are taken and not kept."""

    def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> None:
        pass

    def realpath(self, path: bytes) -> bytes:
        return self._path(path).encode()

    def mkdir(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        self._disk.make_folder(self._path(path))

    def rmdir(self, path: bytes) -> None:
        name = self._path(path)
        if self._disk.names(name):
            raise OSError(39, "Directory not empty", name)
        self._disk.remove_tree(name)

    def remove(self, path: bytes) -> None:
        self._disk.remove(self._path(path))

    def rename(self, oldpath: bytes, newpath: bytes) -> None:
        self._disk.rename(self._path(oldpath), self._path(newpath))

    posix_rename = rename

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        name = self._path(path)
        for each in self._disk.names(name):
            inside = posixpath.join(name, each)
            yield asyncssh.SFTPName(each.encode(), attrs=_attributes(self._disk.is_folder(inside), self._disk.size(inside)))


def _attributes(folder: bool, size: int) -> asyncssh.SFTPAttrs:
    kind = stat.S_IFDIR | 0o755 if folder else stat.S_IFREG | 0o644
    return asyncssh.SFTPAttrs(size=size, uid=1000, gid=1000, permissions=kind, atime=0, mtime=0)
