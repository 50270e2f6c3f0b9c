"""A user's own text of every layer, carried through: comments, field order, and fields that this Caffe does not know.

A parsed layer takes its text along as a protobuf field that no ``caffe.proto`` has, so that copies keep it. What is emitted
unchanged is written as it stood; a layer that was changed is written anew.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Optional

from enc_caffe.caffe_io.wire import fields, message

#: The last field number that protobuf has; Caffe and its forks count from 1.
_FIELD = 2**29 - 1
_DIGEST = 32
#: A string without an end takes the rest of its line: looking for the end again from every quote would take for ever.
_TOKEN = re.compile(
    r"""#[^\n]*|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|[{}<>\[\]]|[A-Za-z_][\w.]*|\s+|.""", re.DOTALL
)

#: A comment behind what a line ends with.
_BEHIND = re.compile(r"[ \t]*#[^\n]*")


@dataclass(frozen=True)
class Block:
    """One ``layer { ... }`` of a prototxt: its text with its comments, its body, and the lines before the body."""

    text: str
    body: str
    line: int


def split_layers(text: str) -> tuple[str, list[Block], str]:
    """A prototxt's leading comments, its layers, and the rest of it.

    Layers are found by their braces alone, whatever is inside.
    """
    blocks: list[Block] = []
    rest: list[str] = []
    depth, pending, start, body, done, line, counted = 0, False, 0, 0, 0, 0, 0
    for token in _TOKEN.finditer(text):
        word = token.group()
        if word[0] in "#\"'" or word.isspace():
            continue
        if word in "{<[":
            depth += 1
            if depth == 1 and pending and word != "[":
                body = token.end()
            else:
                pending = pending and depth > 1
        elif word in "}>]":
            depth -= 1
            if depth == 0 and pending:
                begin, after = _with_comments(text, done, start), _BEHIND.match(text, token.end())
                end = after.end() if after else token.end()
                line, counted, whole = line + text.count("\n", counted, body), body, text[begin:end]
                blocks.append(Block(whole.strip("\n"), text[body : token.start()], line))
                # Line numbers of what is left stay what they were.
                rest += [text[done:begin], "\n" * whole.count("\n")]
                done, pending = end, False
        elif depth == 0 and word != ":":
            pending, start = word == "layer", token.start()
    rest.append(text[done:])
    header = _header(text)
    if blocks and header and blocks[0].text.startswith(header):
        header = ""
    return header, blocks, "".join(rest)


def _with_comments(text: str, done: int, start: int) -> int:
    """Where the comments right above a place begin, at ``done`` at the earliest."""
    begin = text.rfind("\n", done, start) + 1
    if begin < done or text[begin:start].strip():
        return start
    while begin > done:
        above = text.rfind("\n", done, begin - 1) + 1
        above = max(above, done)
        if not text[above:begin].lstrip().startswith("#"):
            break
        begin = above
    return begin


def _header(text: str) -> str:
    found = []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            break
        found.append(line)
    return "\n".join(found).strip()


def attach(layer: Any, text: str, always: bool = False) -> None:
    """Let a LayerParameter take its text along; ``always``: it is written like that even where a field was changed."""
    note = bytes([always]) + (b"" if always else _digest(layer)) + text.encode()
    layer.MergeFromString(message(_FIELD, note))


def text_of(layer: Any) -> Optional[str]:
    """The text that a layer took along, where it still says what the layer is."""
    data = layer.SerializeToString()
    for number, _, a, b in fields(data, 0, len(data)):
        if number != _FIELD:
            continue
        note = data[a:b]
        if note[0]:
            return note[1:].decode()
        return note[1 + _DIGEST :].decode() if note[1 : 1 + _DIGEST] == _digest(layer) else None
    return None


def _digest(layer: Any) -> bytes:
    plain = type(layer)()
    plain.CopyFrom(layer)
    plain.DiscardUnknownFields()
    return hashlib.sha256(plain.SerializeToString(deterministic=True)).digest()
