"""Fields that forks of Caffe added to its messages: read, kept as written, and taken into account where they change sizes.

A field that no message of stock Caffe has is either a fork's or a slip of the pen. What is one letter away from a field that
there is counts as the latter.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Callable, Optional, Sequence

from enc_caffe.caffe_io.fieldtext import Field, blanked, field_at, fields_of

#: Foreign fields of one layer, or of what stands outside of layers, that are looked for one by one.
MOST = 100
_UNKNOWN = re.compile(r'has no field named "([^"]*)"')


@dataclass(frozen=True)
class Foreign:
    """A field that stock Caffe does not have: the messages around it, its name, its text, and whether sizes follow it."""

    path: tuple[str, ...]
    name: str
    text: str
    followed: bool = False

    @property
    def words(self) -> str:
        """Its name with the messages around it."""
        return ".".join((*self.path, self.name))


def _floor(value: str) -> str:
    return "round_mode: FLOOR" if value.lower() in ("false", "f", "0") else ""


def _dilation(value: str) -> str:
    return f"dilation: {value}"


#: What says the same in stock Caffe, where something does: fields of forks that change sizes.
_SAME: dict[tuple[str, str], Callable[[str], str]] = {
    ("pooling_param", "ceil_mode"): _floor,
    ("convolution_param", "hole"): _dilation,
}


#: Fields in the parameters of a convolution or fully connected layer that say how it is computed, not what.
_HOW = re.compile(
    r"hole|strict_dim|.*engine.*|.*cudnn.*|conv_algos_override|.*workspace.*|.*math.*|.*precision.*|.*quant.*|bw_.*|fl_.*"
)


def changes_function(foreign: Sequence[Foreign]) -> str:
    """The first field that may change what a convolution or fully connected layer computes (such as ``normalize``), or nothing."""
    own = [f for f in foreign if f.path in (("convolution_param",), ("inner_product_param",))]
    return next((f.words for f in own if not _HOW.fullmatch(f.name)), "")


@dataclass(frozen=True)
class Mistake:
    """What a parser found wrong first: line and column, from 1 (0: not known), and its words."""

    line: int
    column: int
    words: str


def parse_foreign(
    text: str, message: Any, parse: Callable[[str, Any], Optional[Mistake]]
) -> tuple[list[Foreign], str, Optional[Mistake]]:
    """Parse text into a message; the fields that the message's type does not have are left out.

    Returns
    -------
    foreign : list of Foreign
    text : str
        What stock Caffe can read of it, on the same lines.
    mistake : Mistake or None
        The first thing that is wrong otherwise, a field that is a slip of the pen too.
    """
    found: list[Foreign] = []
    while True:
        message.Clear()
        mistake = parse(text, message)
        field = _unknown_field(text, mistake) if mistake is not None and len(found) < MOST else None
        if field is None or _slip(message, field):
            return found, text, mistake
        value = text[slice(*field.value)].strip()
        same = _SAME.get((field.path[-1] if field.path else "", field.name))
        instead = same(value) if same is not None and value.isalnum() else ""
        if any((f.path, f.name) == (field.path, instead.partition(":")[0]) for f in fields_of(text)):
            instead = ""
        found.append(Foreign(field.path, field.name, text[field.start : field.end].rstrip(",; \n"), same is not None))
        text = blanked(text, field, instead)


def _unknown_field(text: str, mistake: Mistake) -> Optional[Field]:
    name = _UNKNOWN.search(mistake.words)
    field = field_at(text, mistake.line, mistake.column) if name and mistake.line and mistake.column else None
    return field if field is not None and name is not None and field.name == name.group(1) else None


def _slip(message: Any, field: Field) -> bool:
    """Whether a field is one letter away from one that the message around it has."""
    kind = message.DESCRIPTOR
    for name in field.path:
        inner = kind.fields_by_name.get(name)
        if inner is None or inner.message_type is None:
            return False
        kind = inner.message_type
    return any(_one_letter(field.name, known.name) for known in kind.fields)


def _one_letter(name: str, known: str) -> bool:
    """One letter more, less, or another; a word of one letter (kernel_d) and a digit (relu6_param) are meant so."""
    short, long = sorted((name, known), key=len)
    if len(long) - len(short) > 1:
        return False
    at = next((i for i, (a, b) in enumerate(zip(short, long)) if a != b), len(short))
    if len(short) == len(long):
        same = short[at + 1 :] == long[at + 1 :]
        swapped = short[at : at + 2] == long[at : at + 2][::-1] and short[at + 2 :] == long[at + 2 :]
    else:
        same, swapped = short[at:] == long[at + 1 :], False
    letter = long[at : at + 1]
    alone = len(name.rpartition("_")[2]) == 1 and "_" in name
    return (same or swapped) and not letter.isdigit() and not name[at : at + 1].isdigit() and not alone


def packed(foreign: Sequence[Foreign]) -> bytes:
    """Foreign fields as bytes, for a layer to take along."""
    return json.dumps([[list(f.path), f.name, f.text, f.followed] for f in foreign]).encode()


def unpacked(data: bytes) -> list[Foreign]:
    """What :func:`packed` made."""
    return [Foreign(tuple(path), name, text, followed) for path, name, text, followed in json.loads(data)]


def with_foreign(text: str, foreign: Sequence[Foreign], apart: str) -> str:
    """The text of a message with foreign fields put back, each in the message that it was in; ``apart`` stands between fields."""
    for field in foreign:
        text = _put(text, field, apart)
    return text


def _put(text: str, field: Foreign, apart: str) -> str:
    inside = next((f for f in fields_of(text) if (*f.path, f.name) == field.path), None) if field.path else None
    if inside is not None:
        at = inside.value[1]
        return text[:at].rstrip() + apart + field.text + apart + text[at:].lstrip(" ")
    wrapped = field.text
    for name in reversed(field.path):
        wrapped = f"{name} {{ {wrapped} }}"
    return (text.rstrip() + apart + wrapped).lstrip() + apart
