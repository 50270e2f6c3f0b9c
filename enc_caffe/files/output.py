"""Outputs appear whole or not at all: written beside their place, then renamed. One command at a time writes to one place."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, Iterator, Mapping, Optional

from enc_caffe.errors import OutputError
from enc_caffe.files.signals import undisturbed

#: Outputs that this process holds, by their lock files.
_HELD: set[str] = set()
#: In the names of what is not whole yet: nobody else's files are called so.
_PART = ".enc-caffe-"
#: In a temporary folder: locked by the process that it belongs to.
_LOCK = ".lock"


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold an output file or folder for this process, and remove what a killed one left of it.

    The lock is the operating system's and ends with its process, however that ends; its file lies beside the output (in a folder
    whose parent cannot be written, inside of it). Claims of one process may be nested.

    Raises
    ------
    OutputError
        If another process holds it: the message says which, and since when. If the place cannot be written.
    """
    path = _place(Path(path).absolute())
    inside = path.is_dir() and not os.access(path.parent, os.W_OK)
    lock, made = path / ".enc-caffe.lock" if inside else path.with_name(f".{path.name}.lock"), _missing(path.parent)
    if str(lock) in _HELD:
        yield
        return
    held: list[int] = []

    def release() -> None:
        # First the name, then the lock: whoever opens the name gets a lock that counts.
        while held:
            _HELD.discard(str(lock))
            with contextlib.suppress(OSError):
                os.unlink(lock)
            os.close(held.pop())
            for folder in made:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    try:
        try:
            # An interruption amid this would leave an empty lock file, or one that this process holds for ever.
            with undisturbed():
                path.parent.mkdir(parents=True, exist_ok=True)
                held.append(_lock(lock, path))
                _HELD.add(str(lock))
        except OSError as exc:
            verb = "written" if path.exists() else "created"
            raise OutputError(f"{path}: cannot be {verb} ({exc.strerror})") from None
        _sweep(path)
        yield
    finally:
        try:
            with undisturbed():
                release()
        finally:
            # Where an interruption came before that had begun.
            release()


def _place(path: Path) -> Path:
    """Where a folder is: what a link leads to, so that the link stays one when the folder is replaced."""
    return Path(os.path.realpath(path)) if path.is_symlink() and path.is_dir() else path


def _missing(folder: Path) -> list[Path]:
    """Folders that would have to be made, innermost first."""
    return [f for f in (folder, *folder.parents) if not f.exists()]


def _lock(lock: Path, path: Path) -> int:
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if not os.path.exists(lock):
                raise
            # What a killed command of another user left; to lock it, reading is enough.
            descriptor = os.open(lock, os.O_RDONLY)
        try:
            if not _flock(descriptor):
                who = os.read(descriptor, 200).decode(errors="replace")
                raise OutputError(
                    f"{path}: another command is writing there ({who or 'it has just begun'}); wait for its end, or name another --out"
                )
            if os.stat(lock).st_ino == os.fstat(descriptor).st_ino:
                break
        except FileNotFoundError:
            # Its holder has just removed it.
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {since}".encode())
    return descriptor


def _flock(descriptor: int) -> bool:
    """Lock an open file, unless another process has done so; where a file system has no locks nobody is kept out."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        if exc.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
    return True


def _sweep(path: Path) -> None:
    """Remove what killed commands left beside an output that is claimed; what was moved away to be replaced comes back."""
    for name in glob.glob(glob.escape(str(path.parent)) + f"/.{glob.escape(path.name)}{_PART}*"):
        with contextlib.suppress(OSError):
            if name.endswith(".old") and not os.path.lexists(path):
                os.rename(name, path)
            elif os.path.isdir(name) and not os.path.islink(name):
                shutil.rmtree(name, ignore_errors=True)
            else:
                _unlink_unlocked(name)


def _unlink_unlocked(name: str) -> None:
    # Whoever writes a file holds its lock until it has its name.
    descriptor = os.open(name, os.O_RDONLY)
    try:
        if _flock(descriptor):
            os.unlink(name)
    finally:
        os.close(descriptor)


def sweep_folder(folder: Path) -> None:
    """Remove half-written files and folders in a folder that is claimed, but for those that another process writes."""
    for name in glob.glob(glob.escape(str(folder)) + f"/.*{_PART}*"):
        with contextlib.suppress(OSError, OutputError):
            if os.path.isdir(name) and not os.path.islink(name):
                # Whoever writes a folder holds its place, and that is swept when it is claimed.
                with claimed(folder / os.path.basename(name)[1:].rpartition(_PART)[0]):
                    pass
            else:
                _unlink_unlocked(name)


@contextlib.contextmanager
def scratch_folder(parent: Optional[Path], prefix: str) -> Iterator[Path]:
    """Temporary folder in ``parent`` (else where temporary files go); those that killed commands left there are removed first."""
    if parent is None:
        with tempfile.TemporaryDirectory(prefix=prefix) as name:
            yield Path(name)
        return
    with contextlib.ExitStack() as stack:
        try:
            # Whoever makes or removes one holds this, so that none is removed before its owner has locked it.
            with open(parent / f".{prefix}lock", "w") as gate:
                # Where there are no locks nothing can be told to be left over.
                with contextlib.suppress(OSError):
                    fcntl.flock(gate, fcntl.LOCK_EX)
                    for left in glob.glob(glob.escape(str(parent)) + f"/{prefix}*"):
                        _remove_unlocked(left)
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=parent))
                # A file, not the folder: network file systems lock only files for other machines too.
                held = stack.enter_context(open(Path(folder) / _LOCK, "w"))  # noqa: SIM115
                _flock(held.fileno())
        except OSError as exc:
            raise OutputError(f"{parent}: a temporary folder cannot be made there ({exc.strerror})") from None
        yield Path(folder)


def _remove_unlocked(folder: str) -> None:
    with contextlib.suppress(OSError):
        if not os.path.exists(os.path.join(folder, _LOCK)):
            shutil.rmtree(folder, ignore_errors=True)
            return
        with open(os.path.join(folder, _LOCK), "r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Binary file that replaces ``path`` when the block ends without an error.

    Raises
    ------
    OutputError
        If the folder does not exist, cannot be written, or the disk is full.
    """
    path = Path(path)
    with contextlib.suppress(OutputError), claimed(path):
        # What a killed command left; a file that another command writes now is not waited for, the last one stands.
        pass
    made: list[str] = []
    try:
        with undisturbed():
            handle = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}{_PART}", delete=False)  # noqa: SIM115
            made.append(handle.name)
        with handle:
            _flock(handle.fileno())
            yield handle  # type: ignore[misc]
            handle.flush()
            os.fsync(handle.fileno())
            # mkstemp makes private files; outputs get the permissions of an ordinary new file.
            os.chmod(handle.name, 0o666 & ~_umask())
            os.replace(handle.name, path)
    except BaseException as exc:
        for name in made:
            with contextlib.suppress(OSError):
                os.unlink(name)
        if isinstance(exc, OSError):
            raise OutputError(f"{path}: cannot be written ({exc.strerror})") from None
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_parent(path: Path) -> None:
    """Refuse an output file whose folder is missing or not writable; say so before any work is done."""
    parent = Path(path).absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written, {parent} is not a writable folder")


def check_new(path: Path, force: bool) -> None:
    """Refuse an output folder that exists, unless ``force``; say so before any work is done."""
    path = Path(path)
    if path.exists() and not force:
        raise OutputError(f"{path}: exists already; --force replaces it, or name another --out")
    # A link's folder is replaced where it is.
    place = _place(path.absolute())
    if os.path.ismount(place):
        raise OutputError(f"{path}: is where a file system is mounted, which nothing can replace; name a folder in it")
    parent = place.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"{path}: cannot be created, {parent} is not a writable folder")


def check_apart(path: Path, inputs: Mapping[str, Optional[Path]], flag: str = "--out") -> None:
    """Refuse an output that is one of the inputs, or a folder with one in it: to replace it would be to lose what is read.

    Parameters
    ----------
    inputs : mapping of what the user calls them to path
    """
    own = Path(os.path.realpath(path))
    for name, given in inputs.items():
        if given is None or not os.path.lexists(path):
            continue
        other = Path(os.path.realpath(given))
        if own == other or own in other.parents:
            what = "is" if own == other else "holds"
            raise OutputError(
                f"{flag} {path}: {what} {name} {given}, which is read; name another {flag}, or it would be lost"
            )


@contextlib.contextmanager
def atomic_folder(path: Path, force: bool = False) -> Iterator[Path]:
    """Folder that takes the name ``path`` when the block ends without an error.

    Parameters
    ----------
    force : bool
        Replace a folder that exists; it is there until the new one is whole.

    Raises
    ------
    OutputError
        If it exists (without ``force``), cannot be written, or another command is writing it.
    """
    path = Path(path)
    check_new(path, force)
    with claimed(path):
        # What another command has made since, or a killed one had moved away.
        check_new(path, force)
        yield from _made_folder(_place(path))


def _made_folder(path: Path) -> Iterator[Path]:
    made: list[Path] = []
    try:
        try:
            with undisturbed():
                made.append(Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}{_PART}")))
                os.chmod(made[0], 0o777 & ~_umask())
        except OSError as exc:
            raise OutputError(f"{path}: cannot be created ({exc.strerror})") from None
        work = made[0]
        yield work
        if not os.path.lexists(path):
            os.rename(work, path)
        elif _exchanged(work, path):
            shutil.rmtree(work, ignore_errors=True) if work.is_dir() else work.unlink()
        else:
            old = work.with_name(work.name + ".old")
            with undisturbed():
                os.rename(path, old)
                os.rename(work, path)
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()
    except BaseException as exc:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(exc, OutputError) and str(folder) in str(exc):
                # A file in it: people know the folder by its own name.
                raise OutputError(str(exc).replace(str(folder), str(path))) from None
        if isinstance(exc, OSError):
            raise OutputError(f"{path}: cannot be written ({exc.strerror})") from None
        raise


def _exchanged(first: Path, second: Path) -> bool:
    """Swap two names at once, where the system can: a kill between two renames would leave neither at its place."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2
    return bool(swap(here, os.fsencode(first.absolute()), here, os.fsencode(second.absolute()), exchange) == 0)
