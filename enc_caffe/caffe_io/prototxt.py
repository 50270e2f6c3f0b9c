"""Prototxt text in and out; old formats are brought up to date by Caffe's own tools."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Optional

from google.protobuf import text_format

from enc_caffe.caffe_io.apart import name_apart
from enc_caffe.caffe_io.fieldtext import TOKEN
from enc_caffe.caffe_io.foreign import Mistake, parse_foreign, with_foreign
from enc_caffe.caffe_io.looks import looks_like
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.style import style_of, written
from enc_caffe.caffe_io.verbatim import Block, attach, foreign_of, source_of, split_layers, text_of
from enc_caffe.errors import PrototxtError
from enc_caffe.installation import find_caffe
from enc_caffe.shapes import KNOWN_TYPES

#: The largest prototxt: that of ResNet-152 has 0.1 MiB, and a MiB takes seconds to parse.
MAX_BYTES = 4 * 2**20
#: Seconds that the upgrade of an old prototxt may take; it takes a few hundredths.
UPGRADE = 120
_UTF8_MARK = b"\xef\xbb\xbf"
_TWICE = re.compile(r'"caffe\.(\w+)" should not have multiple "(\w+)" fields')
#: Fields of which a fork's pooling has one value for each axis, and what stock Caffe's for height and width begin with.
_AXES = {"kernel_size": "kernel", "stride": "stride", "pad": "pad"}
_NO_UTF8 = "a string is not in UTF-8; names and files need it, comments may be in any encoding"


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PrototxtError(
                f"{path}: {path.stat().st_size} bytes, more than the {MAX_BYTES} allowed for a prototxt"
            )
        data = path.read_bytes()
    except OSError as exc:
        raise PrototxtError(f"{path}: cannot be read ({exc.strerror})") from None
    other = looks_like(data)
    if other:
        raise PrototxtError(f"{path}: {other}")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise PrototxtError(f"{path}: is in UTF-16, which Caffe does not read; save it in UTF-8")
    # As Caffe has it, a mark of UTF-8 may stand before everything, and comments may be in any encoding: their bytes stay.
    text = data.removeprefix(_UTF8_MARK).decode("utf-8", errors="surrogateescape").replace("\r\n", "\n")
    if "\0" in text or _is_binary(text):
        raise PrototxtError(f"{path}: is binary; a prototxt is text (was a caffemodel given as --model?)")
    if not text.strip():
        raise PrototxtError(f"{path}: is empty")
    return text


def _is_binary(text: str) -> bool:
    """Whether a text has characters that no editor writes, or bytes of no encoding outside of comments and strings."""
    if text.isascii() and text.isprintable():
        return False
    if any(c < " " and c not in "\t\n\r\f\v" for c in text):
        return True
    return any("\udc80" <= c <= "\udcff" for t in TOKEN.finditer(text) if t.group()[0] not in "#\"'" for c in t.group())


def _mistake(text: str, message: Any) -> Optional[Mistake]:
    """What is wrong first with a message's text."""
    try:
        text_format.Parse(text, message)
    except RecursionError:
        return Mistake(0, 0, "messages are nested too deeply")
    except UnicodeError:
        return Mistake(0, 0, _NO_UTF8)
    except text_format.ParseError as exc:
        reason = _NO_UTF8 if "surrogates not allowed" in str(exc) else re.sub(r"^\d+:\d+\s*:\s*", "", str(exc))
        return Mistake(exc.GetLine() or 0, exc.GetColumn() or 0, reason.strip().splitlines()[0])
    return None


def _error(path: Path, mistake: Mistake) -> PrototxtError:
    where = f"{path}:{mistake.line}:{mistake.column}" if mistake.line else str(path)
    twice = _TWICE.search(mistake.words)
    return PrototxtError(f"{where}: {_once(*twice.groups()) if twice else mistake.words}")


def _once(message: str, field: str) -> str:
    """That a field stands several times where stock Caffe takes one value, and what to do."""
    axis = _AXES.get(field) if message == "PoolingParameter" else None
    what = (
        f"several are a fork's pooling over as many axes, which cannot be carried; for height and width write {axis}_h and {axis}_w"
        if axis
        else "leave one of them"
    )
    return f"{message} has '{field}' more than once, and stock Caffe takes one value; {what}"


def _parse(text: str, message: Any, path: Path) -> Any:
    mistake = _mistake(text, message)
    if mistake is not None:
        raise _error(path, mistake)
    return message


def read_net(path: Path, python_layers: bool = False) -> Any:
    """Read a network's prototxt into a NetParameter; V0 and V1 files are upgraded as Caffe does.

    Layers take their text along (:mod:`enc_caffe.caffe_io.verbatim`), with fields that this Caffe does not know
    (:mod:`enc_caffe.caffe_io.foreign`).

    Parameters
    ----------
    python_layers : bool
        Whether Python layers are allowed: Caffe imports and runs the modules that they name.

    Raises
    ------
    PrototxtError
        With line and column where the text is not legal.
    """
    return read_commented(path, python_layers)[0]


def read_commented(path: Path, python_layers: bool = False) -> tuple[Any, str]:
    """:func:`read_net`, and the comments before everything else in the file."""
    path = Path(path)
    text = _read_text(path)
    comments, blocks, rest = split_layers(text)
    net = caffe_pb2().NetParameter()
    mistake = _mistake(text, net)
    if mistake is None and len(blocks) == len(net.layer):
        for layer, block in zip(net.layer, blocks):
            attach(layer, block.text)
    elif mistake is not None:
        net, text = _with_foreign(blocks, rest, path, mistake)
    if net.layers:
        net = _upgrade(path, net, text)
    if not net.layer:
        raise PrototxtError(f"{path}: has no layer; a network's prototxt is needed (a solver goes to --solver)")
    for layer in net.layer:
        if layer.type == "Python" and not python_layers:
            module = layer.python_param.module
            raise PrototxtError(
                f"{path}: layer '{layer.name}' is a Python layer: Caffe would import and run the module '{module}'; "
                "give --allow_python_layers if you trust it"
            )
    _upgrade_inputs(net)
    name_apart(net)
    return net, comments


def _with_foreign(blocks: list[Block], rest: str, path: Path, first: Mistake) -> tuple[Any, str]:
    """The network, if all that is wrong are fields that this Caffe does not have; and what it can read outside of layers.

    What else is wrong is raised; of a layer that Caffe does not have, its fields are its own.
    """
    net = caffe_pb2().NetParameter()
    foreign, known, mistake = parse_foreign(rest, net, _mistake)
    if mistake is not None:
        # Where braces are missing, what is outside of layers is not known: the whole text's first mistake says it better.
        raise _error(path, mistake if "has no field named" in mistake.words else first)
    if foreign:
        attach(net, "", foreign=foreign)
    for block in blocks:
        layer, lines = net.layer.add(), "\n" * block.line + block.body
        if _mistake(lines, layer) is None:
            attach(layer, block.text)
            continue
        layer.Clear()
        with contextlib.suppress(text_format.ParseError, RecursionError, UnicodeError):
            text_format.Parse(lines, layer, allow_unknown_field=True)
            if layer.type and layer.type not in KNOWN_TYPES:
                attach(layer, block.text, always=True)
                continue
        foreign, _, mistake = parse_foreign(lines, layer, _mistake)
        if mistake is not None:
            raise _error(path, mistake)
        attach(layer, block.text, foreign=foreign)
    return net, known


def _upgrade(path: Path, net: Any, text: str) -> Any:
    if net.layer:
        raise PrototxtError(f"{path}: has both 'layer' and the older 'layers'; Caffe takes one of them")
    with tempfile.TemporaryDirectory() as folder:
        known, out = Path(folder) / "known.prototxt", Path(folder) / "upgraded.prototxt"
        known.write_text(text, encoding="utf-8", errors="surrogateescape")
        tool = find_caffe().tool("upgrade_net_proto_text")
        try:
            # Without this the tool leaves three log files for every call where temporary files go.
            done = subprocess.run(
                [str(tool), str(known), str(out)], env={**os.environ, "GLOG_logtostderr": "1"}, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, check=False, timeout=UPGRADE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise PrototxtError(f"{path}: Caffe does not end upgrading this old format within {UPGRADE} s") from None
        if not out.is_file():
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise PrototxtError(
                f"{path}: Caffe cannot upgrade this old format: {last[0].replace(str(known), str(path))}"
            )
        upgraded = _parse(_read_text(out), caffe_pb2().NetParameter(), path)
    foreign = foreign_of(net)
    if foreign:
        attach(upgraded, "", foreign=foreign)
    return upgraded


def _upgrade_inputs(net: Any) -> None:
    """``input:`` with ``input_shape`` or ``input_dim`` becomes an Input layer, as Caffe's own upgrade does."""
    if not net.input:
        return
    layer = caffe_pb2().LayerParameter(name="input", type="Input", top=list(net.input))
    if net.input_shape:
        layer.input_param.shape.extend(net.input_shape)
    else:
        dims = list(net.input_dim)
        for i in range(0, len(dims), 4):
            layer.input_param.shape.add(dim=dims[i : i + 4])
    rest = list(net.layer)
    del net.layer[:]
    net.layer.append(layer)
    net.layer.extend(rest)
    for field in ("input", "input_shape", "input_dim"):
        net.ClearField(field)


def read_solver(path: Path) -> Any:
    """Read a solver's prototxt into a SolverParameter."""
    text = _read_text(Path(path))
    try:
        return _parse(text, caffe_pb2().SolverParameter(), Path(path))
    except PrototxtError as exc:
        if re.search(r"^\s*layers?\s*:?\s*\{", text, re.MULTILINE):
            raise PrototxtError(
                f"{path}: is the prototxt of a network; a solver's (base_lr, max_iter and so on) is needed"
            ) from exc
        raise


def from_text(text: str) -> Any:
    """The NetParameter of text that :func:`to_text` wrote."""
    net = caffe_pb2().NetParameter()
    text_format.Parse(text, net)
    return net


def to_text(message: Any) -> str:
    """Prototxt text of a message."""
    return text_format.MessageToString(message, as_utf8=True)


def _show(message: Any, one_line: bool) -> str:
    return str(text_format.MessageToString(message, as_utf8=True, as_one_line=one_line))


def verbatim_text(net: Any, header: str = "") -> str:
    """Prototxt of a NetParameter, layers that were not changed as the user wrote them, the others in that style."""
    rest = type(net)()
    rest.CopyFrom(net)
    del rest.layer[:]
    # Fields of old-format layers have no place in new ones.
    own = [f for f in foreign_of(net) if not f.path or f.path[0] != "layers"]
    parts = [with_foreign(text_format.MessageToString(rest, as_utf8=True), own, "\n")]
    style = style_of([source for layer in net.layer if (source := source_of(layer)) is not None])
    parts += [(text_of(layer) or written(layer, style, _show)) + "\n" for layer in net.layer]
    return (header + "\n" if header else "") + "".join(parts)


def write_prototxt(path: Path, text: str) -> None:
    """Write a prototxt, bytes of comments as they were read."""
    Path(path).write_text(text, encoding="utf-8", errors="surrogateescape")


def is_stock_text(path: Path) -> bool:
    """Whether a prototxt has only fields that this Caffe knows."""
    try:
        _parse(_read_text(Path(path)), caffe_pb2().NetParameter(), Path(path))
    except PrototxtError:
        return False
    return True
