"""Output files that get their name only when they are complete.

While it is written, `NAME` lies beside its final place as `NAME.partial`, held by an advisory lock (`flock`), which the
kernel drops when the process ends, however it ends: a second run on the same output fails at once, and what a crashed
run left is recognised by its missing lock and replaced by the next run. Nothing is buffered in the process, so a kill
loses no finished write; `fsync` is called once, before the file gets its name, so that after a power failure the name
never stands for half a file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from pipeline.errors import SinkError

PARTIAL_SUFFIX = ".partial"
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than is allowed",
}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


def write_error(path: Path, error: OSError, *, kept: str | None = None) -> SinkError:
    """An operating system's error in words.

    Args:
        path: The output.
        error: What happened.
        kept: Name of the file that keeps what was written; None if nothing was.
    """
    kept_as = f"what was written is kept as {kept}; " if kept else ""
    if error.errno in _FULL:
        return SinkError(f"{path}: {_FULL[error.errno]}", remedy=f"{kept_as}free some space or choose another path")
    if error.errno in _DENIED:
        return SinkError(f"{path}: no permission to write there", remedy="choose another path or change its rights")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return SinkError(f"{path}: a part of the path is a file, not a folder", remedy="choose another path")
    if error.errno == errno.ENAMETOOLONG:
        return SinkError(f"{path}: the file name is too long", remedy="choose a shorter one")
    return SinkError(f"{path}: cannot be written: {error.strerror or error}", remedy=kept_as.removesuffix("; ") or None)


def partial_path(path: Path) -> Path:
    """Where an output lies until it is complete."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def check_folder(folder: Path) -> None:
    """Makes the folder if it is not there, and checks that files can be made in it.

    Raises:
        SinkError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as e:
        raise write_error(folder, e) from e


class Output:
    """One file on its way: opened under its temporary name, then completed or kept.

    Attributes:
        path: The name that it gets when it is complete.
        partial: Where it lies until then.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        """Claims the output.

        Raises:
            SinkError: it exists and must not be overwritten, another run writes it, or it cannot be written.
        """
        self.path = path
        self._target = Path(os.path.realpath(path)) if path.is_symlink() else path
        self.partial = partial_path(self._target)
        self._overwrite = overwrite
        self._refuse_existing()
        check_folder(self._target.parent)
        try:
            self._fd: int | None = self._claim()
        except OSError as e:
            raise write_error(path, e) from e
        try:
            self._refuse_existing()  # another run may have completed it while we waited for nothing but the lock
        except SinkError:
            self.discard()
            raise

    def write(self, data: bytes) -> None:
        """Appends all of `data`, or nothing of it.

        Raises:
            SinkError: the disk is full, or the like; what earlier calls wrote is untouched.
        """
        fd = self._open_fd()
        start = os.lseek(fd, 0, os.SEEK_CUR)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(fd, view) :]
        except OSError as e:
            os.ftruncate(fd, start)
            os.lseek(fd, start, os.SEEK_SET)
            raise self.error(e) from e

    @property
    def size_bytes(self) -> int:
        """How much is written."""
        return os.fstat(self._open_fd()).st_size

    def shorten(self, size_bytes: int) -> None:
        """Cuts off what was written behind this size."""
        os.ftruncate(self._open_fd(), size_bytes)

    def complete(self, written: Path | None = None) -> Path:
        """Gives the file its name.

        Args:
            written: A finished file in the same folder that takes the place of the temporary one.

        Raises:
            SinkError: it could not be stored, or the name was taken meanwhile.
        """
        self._refuse_existing()
        try:
            if written is not None:
                _sync(written)
                written.replace(self._target)
                self.partial.unlink()
            else:
                os.fsync(self._open_fd())
                self.partial.replace(self._target)
        except OSError as e:
            raise self.error(e) from e
        self._release()
        return self.path

    def error(self, error: OSError) -> SinkError:
        """An error while writing, in words."""
        return write_error(self.path, error, kept=self.partial.name)

    def keep(self) -> list[Path]:
        """Leaves what was written under the temporary name: its path, or nothing if nothing was written."""
        if self._fd is None:
            return []
        if os.fstat(self._fd).st_size == 0:
            self.discard()
            return []
        self._release()
        return [self.partial]

    def discard(self) -> None:
        """Removes the temporary file."""
        if self._fd is not None:
            self.partial.unlink(missing_ok=True)
            self._release()

    def _refuse_existing(self) -> None:
        try:
            mode = self._target.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as e:
            raise write_error(self.path, e) from e
        if stat.S_ISDIR(mode):
            raise SinkError(f"{self.path}: is a folder", remedy="give the path of a file")
        if not stat.S_ISREG(mode):
            raise SinkError(f"{self.path}: is not a regular file", remedy="give the path of a file")
        if not self._overwrite:
            raise SinkError(f"{self.path}: already exists", remedy="choose another path, or set overwrite: true")

    def _claim(self) -> int:
        while True:
            fd = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._lock(fd)
                if _is_file(fd, self.partial):
                    os.ftruncate(fd, 0)
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # its owner completed it between our open and our lock: what we hold is the finished file

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SinkError(
                f"{self.path}: another run or another sink is writing it",
                remedy="give each its own path; use {source} for one file per source",
            ) from None
        except OSError as e:
            if e.errno not in _NO_LOCKS:  # a file system without locks is used without them
                raise

    def _open_fd(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path} is closed")
        return self._fd

    def _release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _is_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
