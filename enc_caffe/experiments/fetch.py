"""Public files that the reproduction needs: from the folder that ``ENC_CAFFE_DATA`` names, else downloaded and checked."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from enc_caffe.errors import DatasetError
from enc_caffe.installation import cache_folder


@dataclass(frozen=True)
class Resource:
    """One public file: name, address, hash as pooch takes it, what it is, how large in MB, and further addresses."""

    name: str
    url: str
    known_hash: str
    what: str
    megabytes: float = 0
    mirrors: tuple[str, ...] = ()

    def addresses(self) -> tuple[str, ...]:
        """Where to try, in order: ``ENC_CAFFE_MIRROR`` (a folder at some address) first."""
        named = os.environ.get("ENC_CAFFE_MIRROR", "").rstrip("/")
        return (*([f"{named}/{self.name}"] if named else []), self.url, *self.mirrors)


RESOURCES = {
    r.name: r
    for r in (
        Resource(
            "res56.caffemodel",
            "https://github.com/Hyeji-Kim/ENC/raw/master/base_models/res56/res56.caffemodel",
            "sha256:15c467a55423e2a87b062cfd3e97786cfdb8bde3497e47e7ef33146afb921846",
            "the paper's ResNet-56 (MIT licence)",
            3.5,
            ("https://raw.githubusercontent.com/Hyeji-Kim/ENC/master/base_models/res56/res56.caffemodel",),
        ),
        Resource(
            "cifar-10-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "md5:c32a1d4ab5d03f1284b67883e8d87530",
            "CIFAR-10, binary version",
            170,
        ),
        Resource(
            "VGG_ILSVRC_16_layers.caffemodel",
            "https://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel",
            "sha1:9363e1f6d65f7dba68c4f27a1e62105cdf6c4e24",
            "VGG-16 of ILSVRC-2014 (CC BY 4.0)",
            553,
            ("http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel",),
        ),
        Resource(
            "bvlc_alexnet.caffemodel",
            "http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
            "sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
            "BVLC's AlexNet (unrestricted use)",
            244,
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


class _Download:
    """A downloader as pooch calls it: goes on with what a former try left in ``partial``."""

    def __init__(self, partial: Path, what: str) -> None:
        self.partial, self.what = partial, what

    def __call__(self, url: str, output_file: str, pooch: Any = None) -> None:
        """Fill ``partial`` from ``url``, then move it to where pooch checks it."""
        import requests

        start = self.partial.stat().st_size if self.partial.exists() else 0
        headers = {"User-Agent": "enc-caffe", **({"Range": f"bytes={start}-"} if start else {})}
        with requests.get(url, headers=headers, stream=True, timeout=15) as answer:
            if answer.status_code == 416:
                # Nothing lies beyond the part: it is whole, or of another file, which its hash will tell.
                self._move(output_file)
                return
            answer.raise_for_status()
            if answer.status_code != 206:
                start = 0
            size = int(answer.headers.get("content-length") or 0)
            self._need(size)
            bar = _Bar(self.what)
            bar.total = start + size
            try:
                bar.update(start)
                with open(self.partial, "ab" if start else "wb") as out:
                    for block in answer.iter_content(1 << 16):
                        out.write(block)
                        bar.update(len(block))
            finally:
                bar.close()
        self._move(output_file)

    def _move(self, output_file: str) -> None:
        os.replace(self.partial, output_file)

    def _need(self, size: int) -> None:
        free = shutil.disk_usage(self.partial.parent).free
        if size > free:
            raise OSError(errno.ENOSPC, f"{size:,} bytes are needed, {free:,} are free")


def fetch(resource: Resource) -> Path:
    """A public file, from ``ENC_CAFFE_DATA``, the cache, or one of its addresses, with its hash checked.

    A download that was interrupted goes on where it was. What has another hash is deleted, and the next address tried.

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
    folder, reasons = download_folder(), []
    download = _Download(folder / f"{resource.name}.part", resource.what)
    for url in resource.addresses():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return Path(pooch.retrieve(url, resource.known_hash, resource.name, folder, downloader=download))
        except OSError as exc:
            if exc.errno == errno.ENOSPC:
                # Another address would bring no more room.
                raise DatasetError(
                    f"{resource.what}: there is no room for it in {folder} ({exc.strerror})",
                    "make room, or name a folder on another disk by ENC_CAFFE_CACHE; what is there is gone on with",
                ) from None
            reasons.append(_reason(exc))
        except (
            Exception
        ) as exc:  # requests, urllib3 and pooch each have their own; all of them mean the same to the user
            reasons.append(_reason(exc))
    raise DatasetError(
        f"{resource.what} cannot be downloaded ({'; '.join(dict.fromkeys(reasons))[:240]})",
        f"fetch {resource.url} by hand and put it as {resource.name} into {folder} or the folder that ENC_CAFFE_DATA names",
    )


def _reason(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:160]


def is_here(resource: Resource) -> bool:
    """Whether a file need not be downloaded (its hash is looked at when it is used)."""
    local = data_folder()
    return (local is not None and (local / resource.name).is_file()) or (download_folder() / resource.name).is_file()


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
