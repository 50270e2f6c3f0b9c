"""Whether stock Caffe loads what was emitted, with all its weights: asked of Caffe itself, in a process of its own.

``caffe test -iterations 0`` sets a network up, copies the weights into it by name, and ends; a blob that does not fit makes it
abort. That is lighter than pycaffe, and an abort stays in that process.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from enc_caffe.caffe_io.blobs import misfits, needed_blobs
from enc_caffe.caffe_io.caffemodel import CaffeModel, opened
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.partial import foreign, known_part
from enc_caffe.caffe_io.prototxt import is_stock_text, to_text
from enc_caffe.errors import CaffeError, CaffeNotFoundError, NetworkError
from enc_caffe.installation import find_caffe
from enc_caffe.network import Network
from enc_caffe.shapes import Shape
from enc_caffe.workers.executor import last_words
from enc_caffe.workers.limits import GIB, memory_free
from enc_caffe.workers.parent import die_with_parent

#: Seconds after which a Caffe that only loads is taken to hang.
LIMIT = 1800.0
_PYCAFFE = (
    "import sys; sys.path.insert(0, sys.argv[1]); import caffe; caffe.Net(sys.argv[2], caffe.TEST, weights=sys.argv[3])"
)


@dataclass(frozen=True)
class Original:
    """What was compressed: its deploy form and its weights. What Caffe says of it is no fault of the emission."""

    deploy: Any
    weights: Path


@dataclass(frozen=True)
class Failure:
    """Why files were not loaded, in words; ``lack``: Caffe was not asked, or could not be, for want of something here."""

    words: str
    lack: bool = False


def check_loads(folder: Path, deploy: Any, shapes: Mapping[str, Shape], original: Original, name: Path) -> str:
    """Load ``deploy.prototxt`` and ``compressed.caffemodel`` of an emitted folder in stock Caffe.

    Parameters
    ----------
    folder, name : Path
        Where the files are, and what the folder will be called.
    deploy : NetParameter
        What ``deploy.prototxt`` says.
    shapes : mapping of top to full shape
        Of tops that no layer which stock Caffe has makes, as far as they are known.

    Returns
    -------
    str
        What was not checked, and why; empty where stock Caffe loaded both files whole.

    Raises
    ------
    CaffeError
        With Caffe's own words, where it does not load them though it loads the original.
    """
    prototxt, weights = folder / "deploy.prototxt", folder / "compressed.caffemodel"
    network = _described(deploy, shapes)
    if network is None:
        return "the files were not loaded in stock Caffe: nothing says how large its inputs are (--input_shape)"
    model = CaffeModel(weights)
    wrong = misfits(model, needed_blobs(deploy, network))
    _check_same(wrong, original, shapes, name)
    # What the original's caffemodel lacks has a line of its own (:mod:`enc_caffe.caffe_io.lacking`).
    wrong = {layer: words for layer, words in wrong.items() if layer in model.layers}
    left = {**foreign(deploy), **wrong}
    remarks = _remarks({**wrong, **left})
    if left or not is_stock_text(prototxt):
        return _partly(deploy, network, left, weights, remarks)
    failure = load(prototxt, weights)
    if failure is None or failure.lack:
        return _listed([f"the files were not loaded in stock Caffe: {failure.words}"] if failure else [], remarks)
    with _written(original.deploy) as path:
        before = load(path, original.weights)
    if before is not None:
        return f"the files were not loaded in stock Caffe, which does not load the original either: {before.words}"
    raise CaffeError(
        f"{name}: stock Caffe loads the original, but not what was emitted: {failure.words}; nothing was written"
    )


def _check_same(wrong: Mapping[str, str], original: Original, shapes: Mapping[str, Shape], name: Path) -> None:
    """Raise for a layer that does not fit though the original's of that name does, or that the original does not have."""
    if not wrong:
        return
    network = _described(original.deploy, shapes)
    before = misfits(opened(original.weights), needed_blobs(original.deploy, network)) if network else {}
    for layer, words in wrong.items():
        if layer not in before:
            raise CaffeError(f"{name}: the emitted layer '{layer}' {words}; nothing was written")


def _partly(deploy: Any, network: Network, left: Mapping[str, str], weights: Path, remarks: list[str]) -> str:
    part, behind = known_part(deploy, network, left)
    with _written(part) as path:
        failure = load(path, weights)
    if failure is not None:
        return _listed([f"the files were not loaded in stock Caffe: {failure.words}"], remarks)
    loaded, all_ = (sum(layer.type != "Input" for layer in net.layer) for net in (part, deploy))
    told = f"stock Caffe loaded {loaded} of {all_} layers"
    told += f" ({behind} read what those make that it does not have)" if behind else ""
    return _listed([told], remarks or ["the prototxt has fields that it does not have"])


def _remarks(found: Mapping[str, str]) -> list[str]:
    """One for each thing that is said, of the first layer that it is said of."""
    layers: dict[str, list[str]] = {}
    for layer, words in found.items():
        layers.setdefault(words, []).append(layer)
    return [
        f"layer '{names[0]}' {words}" + (f" (and so in {len(names) - 1} more)" if len(names) > 1 else "")
        for words, names in layers.items()
    ]


def _listed(first: list[str], remarks: list[str], most: int = 3) -> str:
    """Remarks in one line, the first few of them."""
    more = [f"{len(remarks) - most} more"] if len(remarks) > most else []
    return "; ".join([*first, *remarks[:most], *more])


def _described(deploy: Any, shapes: Mapping[str, Shape]) -> Optional[Network]:
    try:
        return describe(deploy, None, "deploy.prototxt", shapes)
    except NetworkError:
        return None


@contextlib.contextmanager
def _written(net: Any) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="enc-caffe-") as folder:
        path = Path(folder) / "deploy.prototxt"
        path.write_text(to_text(net), encoding="utf-8")
        yield path


def load(prototxt: Path, weights: Path) -> Optional[Failure]:
    """Set a network up in stock Caffe and copy its weights into it; why that failed, or None."""
    # Caffe holds a caffemodel twice: as it is in the file, and in the net's blobs.
    need, free = 2 * weights.stat().st_size, memory_free()
    if need > free:
        return Failure(f"that takes {need / GIB:.1f} GiB of memory, and {free / GIB:.1f} GiB are free", lack=True)
    caffe = find_caffe()
    try:
        command = [str(caffe.tool("caffe")), "test", "-model", str(prototxt), "-weights", str(weights), "-iterations", "0"]  # fmt: skip
    except CaffeNotFoundError:
        command = [sys.executable, "-c", _PYCAFFE, str(caffe.python_dir), str(prototxt), str(weights)]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "GLOG_logtostderr": "1", "GLOG_minloglevel": "2"}
    try:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
            timeout=LIMIT, preexec_fn=die_with_parent,  # noqa: PLW1509
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Failure(f"it did not end within {LIMIT / 60:g} minutes", lack=True)
    except OSError as exc:
        return Failure(f"{command[0]} cannot be run ({exc.strerror})", lack=True)
    if done.returncode == 0:
        return None
    if done.returncode == -9:
        return Failure("its process was killed, perhaps for want of memory", lack=True)
    return Failure(last_words(done.stderr.decode(errors="replace")))
