"""A user's own text of every layer, carried through: comments, field order, and fields that this Caffe does not know.

A parsed layer takes its text along as a protobuf field that no ``caffe.proto`` has, so that copies keep it. What is emitted
unchanged is written as it stood; a layer that was changed is written anew.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Optional, Sequence

from enc_caffe.caffe_io.fieldtext import TOKEN
from enc_caffe.caffe_io.foreign import Foreign, packed, unpacked
from enc_caffe.caffe_io.wire import fields, message

#: The last field number that protobuf has; Caffe and its forks count from 1.
_FIELD = 2**29 - 1
_DIGEST = 32
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
    for token in TOKEN.finditer(text):
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


#: How a message's text may be used: while the message is what it was; whatever it is; as the first, with foreign fields.
_SAME, _ALWAYS, _FOREIGN = 0, 1, 2


def attach(layer: Any, text: str, always: bool = False, foreign: Sequence[Foreign] = ()) -> None:
    """Let a LayerParameter take its text along; ``always``: it is written like that even where a field was changed.

    ``foreign`` are fields in the text that the message does not hold: they go into what is written anew, too.
    """
    kind = _ALWAYS if always else _FOREIGN if foreign else _SAME
    extra = packed(foreign) if foreign else b""
    note = bytes([kind]) + (b"" if always else _digest(layer))
    if kind == _FOREIGN:
        note += len(extra).to_bytes(4, "little") + extra
    layer.MergeFromString(message(_FIELD, note + text.encode(errors="surrogateescape")))


def text_of(layer: Any) -> Optional[str]:
    """The text that a layer took along, where it still says what the layer is."""
    note = _note(layer)
    if note is None:
        return None
    if note[0] == _ALWAYS:
        return _decoded(note[1:])
    if note[1 : 1 + _DIGEST] != _digest(layer):
        return None
    return _decoded(note[_foreign_end(note) if note[0] == _FOREIGN else 1 + _DIGEST :])


def source_of(layer: Any) -> Optional[str]:
    """The text that a layer was read from, whatever became of it."""
    note = _note(layer)
    if note is None:
        return None
    return _decoded(note[{_ALWAYS: 1, _SAME: 1 + _DIGEST}.get(note[0]) or _foreign_end(note) :])


def foreign_of(message_: Any) -> list[Foreign]:
    """Foreign fields that a message took along."""
    note = _note(message_)
    return [] if note is None or note[0] != _FOREIGN else unpacked(note[1 + _DIGEST + 4 : _foreign_end(note)])


def keep_foreign(net: Any, out: Any) -> None:
    """Let a new NetParameter take along the foreign fields that another has outside of its layers."""
    foreign = foreign_of(net)
    if foreign:
        attach(out, "", foreign=foreign)


def rewrite(layer: Any, text: str) -> None:
    """Give a layer that took its text along another one, which says what the layer is now."""
    always, foreign = (_note(layer) or b"\0")[0] == _ALWAYS, foreign_of(layer)
    layer.DiscardUnknownFields()
    attach(layer, text, always, foreign)


def _note(message_: Any) -> Optional[bytes]:
    data = message_.SerializePartialToString()
    return next((data[a:b] for number, _, a, b in fields(data, 0, len(data)) if number == _FIELD), None)


def _foreign_end(note: bytes) -> int:
    start = 1 + _DIGEST + 4
    return start + int.from_bytes(note[start - 4 : start], "little")


def _decoded(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _digest(layer: Any) -> bytes:
    plain = type(layer)()
    plain.CopyFrom(layer)
    plain.DiscardUnknownFields()
    return hashlib.sha256(plain.SerializeToString(deterministic=True)).digest()
