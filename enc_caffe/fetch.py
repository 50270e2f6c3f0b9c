"""Public files that the reproduction needs: from the folder that ``ENC_CAFFE_DATA`` names, else downloaded and checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from enc_caffe.errors import DatasetError


@dataclass(frozen=True)
class Resource:
    """One public file: name, address, hash as pooch takes it, and what it is."""

    name: str
    url: str
    known_hash: str
    what: str


RESOURCES = {
    r.name: r
    for r in (
        Resource(
            "res56.caffemodel",
            "https://github.com/Hyeji-Kim/ENC/raw/master/base_models/res56/res56.caffemodel",
            "sha256:15c467a55423e2a87b062cfd3e97786cfdb8bde3497e47e7ef33146afb921846",
            "the paper's ResNet-56 (3.5 MB, MIT licence)",
        ),
        Resource(
            "cifar-10-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "md5:c32a1d4ab5d03f1284b67883e8d87530",
            "CIFAR-10, binary version (162 MB)",
        ),
    )
}


def data_folder() -> Optional[Path]:
    """The folder that ``ENC_CAFFE_DATA`` names.

    Raises
    ------
    DatasetError
        If it is named but does not exist.
    """
    named = os.environ.get("ENC_CAFFE_DATA")
    if not named:
        return None
    if not Path(named).is_dir():
        raise DatasetError(f"ENC_CAFFE_DATA={named}: no such folder")
    return Path(named)


def cache_folder() -> Path:
    """The per-user cache, which ENC_CAFFE_CACHE can name."""
    return Path(
        os.environ.get("ENC_CAFFE_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enc-caffe"
    )


def download_folder() -> Path:
    """Where downloads are kept: ``downloads`` in the per-user cache."""
    return cache_folder() / "downloads"


class _Bar:
    """What pooch asks of a progress bar (``total``, ``update``, ``reset``, ``close``), drawn by rich."""

    def __init__(self, what: str) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(what, total=None)
        self._bar.start()
        self.total = 0

    def update(self, size: int) -> None:
        """``size`` more bytes are here."""
        self._bar.update(self._task, advance=size, total=self.total or None)

    def reset(self) -> None:
        """Start anew (pooch calls it when all is here)."""
        self._bar.reset(self._task)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def fetch(resource: Resource) -> Path:
    """A public file, from ``ENC_CAFFE_DATA``, the cache, or its address, with its hash checked.

    Raises
    ------
    DatasetError
        If it cannot be had, or is another file; the message says what to fetch by hand and where to put it.
    """
    import pooch

    local = data_folder()
    if local is not None and (local / resource.name).is_file():
        path = local / resource.name
        algorithm, _, wanted = resource.known_hash.partition(":")
        got = pooch.file_hash(str(path), alg=algorithm)
        if got != wanted:
            raise DatasetError(f"{path}: its {algorithm} is {got}, {wanted} is needed; it is not {resource.what}")
        return path
    folder = download_folder()
    try:
        return Path(
            pooch.retrieve(
                resource.url, resource.known_hash, resource.name, folder,
                downloader=pooch.HTTPDownloader(progressbar=_Bar(resource.what), timeout=15, headers={"User-Agent": "enc-caffe"}),
            )
        )  # fmt: skip
    except Exception as exc:  # requests, urllib3 and pooch each have their own; all of them mean the same to the user
        first = str(exc).splitlines()[0][:160]
        raise DatasetError(
            f"{resource.what} cannot be downloaded ({first})\n"
            f"fetch {resource.url} by hand and put it into {folder} or the folder that ENC_CAFFE_DATA names"
        ) from None


def cifar10_folder() -> Path:
    """CIFAR-10's binary batches, unpacked beside the download."""
    import tarfile

    local = data_folder()
    for place in [local, local / "cifar-10-batches-bin"] if local else []:
        if (place / "test_batch.bin").is_file():
            return place
    archive = fetch(RESOURCES["cifar-10-binary.tar.gz"])
    folder = download_folder() / "cifar-10-batches-bin"
    if not (folder / "test_batch.bin").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            for member in tar:
                # Only the batches' own bytes, under names of ours: nothing in the archive decides where files go.
                if member.isfile() and member.name.endswith(".bin"):
                    source = tar.extractfile(member)
                    assert source is not None
                    part = folder / (Path(member.name).name + ".part")
                    part.write_bytes(source.read())
                    part.replace(folder / Path(member.name).name)
    return folder
