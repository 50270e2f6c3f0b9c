"""Images in any form that ``--images`` takes, for calls from Python: an LMDB as it is, anything else made into one that is kept."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Union

from enc_caffe.caffe_io.collection import collection, wanted_of
from enc_caffe.caffe_io.feed import Feed
from enc_caffe.errors import EncError, UsageError
from enc_caffe.installation import cache_folder
from enc_caffe.pipeline.arguments import check_number


def kept_images() -> Path:
    """Where LMDBs that were made of images are kept."""
    return cache_folder() / "images"


def feed_of(given: Mapping[str, Any]) -> Feed:
    """What the options of :data:`enc_caffe.pipeline.arguments.FEED` say; others are not looked at.

    Raises
    ------
    UsageError
        For values of another type, and options that contradict each other.
    """
    mean, resize = given.get("mean_value", ()), given.get("resize")
    values = tuple(mean) if isinstance(mean, (tuple, list)) else () if mean is None else (mean,)
    for value in values:
        check_number("mean_value", value)
    for name in ("scale", "crop_size"):
        if given.get(name) is not None:
            check_number(name, given[name], name == "crop_size")
    if resize is not None and (not isinstance(resize, (tuple, list)) or len(resize) != 2):
        raise UsageError(f"resize {resize!r}: (height, width) is needed")
    for value in resize or ():
        check_number("resize", value, True)
    if given.get("force_color") and given.get("force_gray"):
        raise UsageError("force_color and force_gray exclude each other")
    color = True if given.get("force_color") else False if given.get("force_gray") else None
    file = given.get("mean_file")
    return Feed(
        tuple(map(float, values)), None if file is None else Path(file), given.get("scale"), given.get("crop_size"),
        given.get("channel_order") or "", None if resize is None else (int(resize[0]), int(resize[1])), color,
    )  # fmt: skip


class Pictures:
    """Images of one call: LMDBs for them, and messages that say the caller's own names.

    Parameters
    ----------
    net : callable
        Gives the NetParameter; called where there are images to be read.
    source : str
        Its file, for messages.
    feed : Feed
    notice : callable of a line that a person should read
    """

    def __init__(
        self, net: Callable[[], Any], source: str, feed: Feed, notice: Callable[[str], None] = lambda line: None
    ) -> None:
        self._net, self._source, self._feed, self._notice = net, source, feed, notice
        self._called: dict[str, str] = {}

    def lmdb(self, images: Union[str, Path], what: str = "lmdb") -> Path:
        """An LMDB of images; what is one, or is not there, is given back as it is.

        Raises
        ------
        DatasetError
            If they cannot be read.
        """
        path = Path(images)
        if not path.exists() or (path / "data.mdb").is_file():
            return path
        wanted = wanted_of(self._net(), self._source, self._feed, path)
        made = collection(path, kept_images(), wanted, notice=self._notice, flag=what)
        self._called[str(made)] = str(path)
        return made

    def named(self, text: str) -> str:
        """A message by the caller's own names."""
        for made, path in self._called.items():
            text = text.replace(made, path)
        return text

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Errors in it say the caller's own names."""
        try:
            yield
        except EncError as exc:
            exc.args = tuple(self.named(line) for line in exc.args)
            raise
