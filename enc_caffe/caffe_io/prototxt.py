"""Prototxt text in and out; old formats are brought up to date by Caffe's own tools."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.verbatim import Block, attach, split_layers, text_of
from enc_caffe.errors import PrototxtError
from enc_caffe.installation import find_caffe
from enc_caffe.shapes import KNOWN_TYPES

#: The largest prototxt: that of ResNet-152 has 0.1 MiB, and a MiB takes seconds to parse.
MAX_BYTES = 4 * 2**20
#: Seconds that the upgrade of an old prototxt may take; it takes a few hundredths.
UPGRADE = 120


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PrototxtError(
                f"{path}: {path.stat().st_size} bytes, more than the {MAX_BYTES} allowed for a prototxt"
            )
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise PrototxtError(f"{path}: is binary; a prototxt is text (was a caffemodel given as --model?)") from None
    except OSError as exc:
        raise PrototxtError(f"{path}: cannot be read ({exc.strerror})") from None
    if not text.strip():
        raise PrototxtError(f"{path}: is empty")
    return text


def _parse(text: str, message: Any, path: Path) -> Any:
    try:
        return text_format.Parse(text, message)
    except RecursionError:
        raise PrototxtError(f"{path}: messages are nested too deeply") from None
    except text_format.ParseError as exc:
        line, column = exc.GetLine(), exc.GetColumn()
        reason = re.sub(r"^\d+:\d+\s*:\s*", "", str(exc))
        where = f"{path}:{line}:{column}" if line else str(path)
        raise PrototxtError(f"{where}: {reason.strip().splitlines()[0]}") from None


def read_net(path: Path, python_layers: bool = False) -> Any:
    """Read a network's prototxt into a NetParameter; V0 and V1 files are upgraded as Caffe does.

    Layers take their text along (:mod:`enc_caffe.caffe_io.verbatim`). A layer whose type this Caffe does not have may hold
    fields that it does not know.

    Parameters
    ----------
    python_layers : bool
        Whether Python layers are allowed: Caffe imports and runs the modules that they name.

    Raises
    ------
    PrototxtError
        With line and column where the text is not legal.
    """
    path = Path(path)
    text = _read_text(path)
    _, blocks, rest = split_layers(text)
    try:
        net = _parse(text, caffe_pb2().NetParameter(), path)
        if len(blocks) == len(net.layer):
            for layer, block in zip(net.layer, blocks):
                attach(layer, block.text)
    except PrototxtError as exc:
        net = _with_unknown_layers(blocks, rest, path)
        if net is None:
            raise exc from None
    if net.layers:
        net = _upgrade(path, net)
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
    return net


def _with_unknown_layers(blocks: list[Block], rest: str, path: Path) -> Any:
    """The network, if all that is wrong are fields in layers of types that this Caffe does not have; else None.

    A mistake in a layer that Caffe has is raised.
    """
    net = caffe_pb2().NetParameter()
    try:
        _parse(rest, net, path)
    except PrototxtError:
        return None
    for block in blocks:
        layer, lines = net.layer.add(), "\n" * block.line + block.body
        try:
            _parse(lines, layer, path)
            attach(layer, block.text)
        except PrototxtError as exc:
            layer.Clear()
            try:
                text_format.Parse(lines, layer, allow_unknown_field=True)
            except (text_format.ParseError, RecursionError):
                raise exc from None
            if layer.type in KNOWN_TYPES or not layer.type:
                raise exc from None
            attach(layer, block.text, always=True)
    return net


def _upgrade(path: Path, net: Any) -> Any:
    if net.layer:
        raise PrototxtError(f"{path}: has both 'layer' and the older 'layers'; Caffe takes one of them")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "upgraded.prototxt"
        tool = find_caffe().tool("upgrade_net_proto_text")
        try:
            # Without this the tool leaves three log files for every call where temporary files go.
            done = subprocess.run(
                [str(tool), str(path), str(out)], env={**os.environ, "GLOG_logtostderr": "1"}, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, check=False, timeout=UPGRADE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise PrototxtError(f"{path}: Caffe does not end upgrading this old format within {UPGRADE} s") from None
        if not out.is_file():
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise PrototxtError(f"{path}: Caffe cannot upgrade this old format: {last[0]}")
        return _parse(_read_text(out), caffe_pb2().NetParameter(), path)


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
    return _parse(_read_text(Path(path)), caffe_pb2().SolverParameter(), Path(path))


def leading_comments(path: Path) -> str:
    """Comments before everything else in a prototxt that :func:`read_net` has read."""
    return split_layers(_read_text(Path(path)))[0]


def to_text(message: Any) -> str:
    """Prototxt text of a message."""
    return text_format.MessageToString(message, as_utf8=True)


def verbatim_text(net: Any, header: str = "") -> str:
    """Prototxt of a NetParameter, layers that were not changed as the user wrote them."""
    rest = type(net)()
    rest.CopyFrom(net)
    del rest.layer[:]
    parts = [text_format.MessageToString(rest, as_utf8=True)]
    for layer in net.layer:
        text = text_of(layer)
        if text is None:
            inner = text_format.MessageToString(layer, as_utf8=True, indent=2)
            text = f"layer {{\n{inner}}}"
        parts.append(text + "\n")
    return (header + "\n" if header else "") + "".join(parts)


def is_stock_text(path: Path) -> bool:
    """Whether a prototxt has only fields that this Caffe knows."""
    try:
        _parse(_read_text(Path(path)), caffe_pb2().NetParameter(), Path(path))
    except PrototxtError:
        return False
    return True
