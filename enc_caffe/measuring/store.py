"""Results of evaluations in SQLite, keyed by content, so that what was measured once is not measured again.

A result belongs to a context (network, weights, images and transformation, by digest), says what was evaluated, and for
which span of images. Every result is committed by itself: a process that is killed loses what it was computing, no more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

from enc_caffe.caffe_io.looks import HEAD, is_another
from enc_caffe.errors import EncError, OutputError
from enc_caffe.installation import cache_folder

SCHEMA = """
CREATE TABLE IF NOT EXISTS contexts (digest TEXT PRIMARY KEY, about TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS results (
  context TEXT NOT NULL, what TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL, value TEXT NOT NULL,
  seal TEXT NOT NULL, PRIMARY KEY (context, what, start, stop)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, digest TEXT NOT NULL);
"""
#: Seconds to wait for another command that writes to the same store.
PATIENCE = 60
#: How a database begins, and what its length is a multiple of.
MAGIC, PAGE = b"SQLite format 3\x00", 512


@dataclass(frozen=True)
class ContextSummary:
    """One context of a store."""

    digest: str
    about: dict[str, Any]
    created: float
    results: int


def digest_of(data: Any) -> str:
    """SHA-256 of JSON data in a canonical form."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _seal(context: str, what: str, start: int, stop: int, value: str) -> str:
    # SQLite has no checksums: a changed byte inside a value would be believed.
    return hashlib.sha256(f"{context} {what} {start} {stop} {value}".encode()).hexdigest()[:16]


class ResultStore:
    """A store that is open for reading and writing; several processes may have the same one open.

    Parameters
    ----------
    path : Path
        Made where it does not exist. A file that SQLite finds damaged is set aside under another name, never trusted.
    warn : callable
        Gets one line where a damaged store was set aside.

    Raises
    ------
    OutputError
        If the file cannot be made or written.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = lambda line: None) -> None:
        # Workers with another working folder get paths that begin with it.
        self.path = Path(path).absolute()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._warn = warn
            self._noted: dict[str, str] = {}
            self._inode = 0
            self._connection = self._open()
        except (OSError, sqlite3.Error) as exc:
            why = exc.strerror if isinstance(exc, OSError) else exc
            raise OutputError(f"{path}: the store cannot be opened ({why})") from None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        connection.executescript(SCHEMA)
        self._inode = os.stat(self.path).st_ino
        return connection

    def _open(self) -> sqlite3.Connection:
        connection: Optional[sqlite3.Connection] = None
        self._refuse_other_files()
        try:
            connection = self._connect()
            problems = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
            if problems == ["ok"]:
                return connection
            reason = problems[0].splitlines()[0]
        except sqlite3.OperationalError as exc:
            # Locked, read-only, disk full: nothing that says the file is damaged.
            if connection is not None:
                connection.close()
            if "malformed" not in str(exc):
                raise
            reason = str(exc)
        except sqlite3.DatabaseError as exc:
            reason = str(exc)
        if connection is not None:
            connection.close()
        return self._anew(reason)

    def _refuse_other_files(self) -> None:
        # A database whose head is damaged still is whole pages long; any other file is not ours to move.
        with contextlib.suppress(FileNotFoundError):
            size = self.path.stat().st_size
            with open(self.path, "rb") as handle:
                head = handle.read(HEAD)
                if size and not head.startswith(MAGIC) and (size % PAGE or is_another(head)):
                    raise OutputError(
                        f"{self.path}: is no store of results, and is left as it is; give --store another file"
                    )

    def _anew(self, reason: str) -> sqlite3.Connection:
        if self._inode not in (0, os.stat(self.path).st_ino):
            # Another command has set the damaged one aside already.
            return self._connect()
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        os.replace(self.path, aside)
        for suffix in ("-journal", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
        self._warn(
            f"{self.path}: the store is damaged ({reason}); it was set aside as {aside.name}, and a new one begun"
        )
        return self._connect()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise OutputError(
                f"{self.path}: the store cannot be used ({exc}); what is in it stays, and the same command goes on from there"
            ) from None

    def context(self, about: dict[str, Any], key: Any) -> str:
        """Digest of a context, which is noted where it is new."""
        digest = digest_of(key)
        self._noted[digest] = json.dumps(about)
        self._note(digest)
        return digest

    def folder(self, digest: str) -> Path:
        """Where arrays of a context are kept, beside the file; they go when the context is removed."""
        self._note(digest)
        return self.path.with_name(self.path.name + ".arrays") / digest

    def _note(self, digest: str) -> None:
        with self._guard():
            self._connection.execute(
                "INSERT OR IGNORE INTO contexts VALUES (?, ?, ?)", (digest, self._noted[digest], time.time())
            )

    def put(self, context: str, start: int, stop: int, values: dict[str, Any]) -> None:
        """Note results of a span of images, in one transaction."""
        rows = []
        for what, value in values.items():
            text = json.dumps(value)
            rows.append((context, what, start, stop, text, _seal(context, what, start, stop, text)))
        with self._guard():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                if context in self._noted:
                    # It may have been pruned meanwhile.
                    self._connection.execute(
                        "INSERT OR IGNORE INTO contexts VALUES (?, ?, ?)", (context, self._noted[context], time.time())
                    )
                self._connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)", rows)
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def known(self, context: str) -> dict[tuple[str, int, int], Any]:
        """All results of a context by (what, start, stop); a store with a value that is not what was written is set aside."""
        try:
            rows = self._connection.execute(
                "SELECT what, start, stop, value, seal FROM results WHERE context = ?", (context,)
            ).fetchall()
            reason = ""
            if any(seal != _seal(context, *row) for *row, seal in rows):
                reason = "a result differs from what was written"
        except sqlite3.OperationalError as exc:
            raise OutputError(f"{self.path}: the store cannot be read ({exc})") from None
        except sqlite3.DatabaseError as exc:
            reason = str(exc)
        if reason:
            self._connection.close()
            with self._guard():
                self._connection = self._anew(reason)
            for digest in self._noted:
                self._note(digest)
            return {}
        return {(what, start, stop): json.loads(value) for what, start, stop, value, _ in rows}

    def file_digest(self, path: Path) -> str:
        """SHA-256 of a file's content; a file of the same size and time is not read again."""
        path = Path(path).resolve()
        try:
            stat = path.stat()
            with self._guard():
                row = self._connection.execute(
                    "SELECT digest FROM files WHERE path = ? AND size = ? AND mtime = ?",
                    (str(path), stat.st_size, stat.st_mtime_ns),
                ).fetchone()
            if row is not None:
                return str(row[0])
            digest = hashlib.sha256()
            with open(path, "rb") as handle:
                while block := handle.read(2**20):
                    digest.update(block)
        except OSError as exc:
            raise EncError(f"{path}: cannot be read ({exc.strerror})") from None
        with self._guard():
            self._connection.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
                (str(path), stat.st_size, stat.st_mtime_ns, digest.hexdigest()),
            )
        return digest.hexdigest()

    def contexts(self) -> list[ContextSummary]:
        """All contexts, newest first."""
        with self._guard():
            rows = self._connection.execute(
                "SELECT digest, about, created, (SELECT COUNT(*) FROM results WHERE context = digest) FROM contexts "
                "ORDER BY created DESC"
            ).fetchall()
        return [ContextSummary(d, json.loads(a), c, n) for d, a, c, n in rows]

    def find(self, prefix: str) -> ContextSummary:
        """The one context whose digest begins so."""
        found = [c for c in self.contexts() if c.digest.startswith(prefix)]
        if len(found) != 1:
            raise EncError(f"{self.path}: {len(found)} contexts begin with '{prefix}'; enc-caffe store list shows them")
        return found[0]

    def remove(self, digests: list[str]) -> int:
        """Remove contexts and their results; returns the number of results."""
        number = 0
        with self._guard():
            self._connection.execute("BEGIN IMMEDIATE")
            for digest in digests:
                number += self._connection.execute("DELETE FROM results WHERE context = ?", (digest,)).rowcount
                self._connection.execute("DELETE FROM contexts WHERE digest = ?", (digest,))
            self._connection.execute("DELETE FROM results WHERE context NOT IN (SELECT digest FROM contexts)")
            self._connection.execute("COMMIT")
        known = {c.digest for c in self.contexts()}
        arrays = self.path.with_name(self.path.name + ".arrays")
        # Those of a store that was set aside have no context any more.
        left = [p.name for p in arrays.iterdir() if p.name not in known] if arrays.is_dir() else []
        for digest in {*digests, *left}:
            shutil.rmtree(self.path.with_name(self.path.name + ".arrays") / digest, ignore_errors=True)
        # Giving the room back can wait for a time when nobody else uses the store.
        with contextlib.suppress(sqlite3.OperationalError):
            self._connection.execute("VACUUM")
        return number

    def size(self) -> int:
        """Bytes of the file and of the arrays that are kept beside it."""
        total = self.path.stat().st_size
        for path in self.path.with_name(self.path.name + ".arrays").rglob("*"):
            with contextlib.suppress(OSError):
                total += path.stat().st_size if path.is_file() else 0
        return total

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def default_store() -> Path:
    """The per-user store of results."""
    return cache_folder() / "results.sqlite"
