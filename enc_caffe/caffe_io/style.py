"""How a person lays a layer out, and new layers laid out like that."""

from __future__ import annotations

import re
from typing import Any, Callable, Sequence

from enc_caffe.caffe_io.foreign import with_foreign
from enc_caffe.caffe_io.verbatim import foreign_of

#: A layer on one line; its names on one line and each parameter on another; every field on a line of its own.
ONE_LINE, GROUPED, LONG = "one line", "grouped", "long"
_HEAD = ("name", "type", "bottom", "top")
_SAME_LINE = re.compile(r"name[^\n#]*[\s\"']type\s*:|type[^\n#]*[\s\"']name\s*:")
Show = Callable[[Any, bool], str]


def style_of(texts: Sequence[str]) -> str:
    """The style that most layers of a prototxt have, comments apart."""
    found = {ONE_LINE: 0, GROUPED: 0, LONG: 0}
    for text in texts:
        lines = sum(bool(line.split("#")[0].strip()) for line in text.splitlines())
        found[ONE_LINE if lines == 1 else GROUPED if _SAME_LINE.search(text) else LONG] += 1
    return max((LONG, GROUPED, ONE_LINE), key=lambda style: found[style])


def written(layer: Any, style: str, show: Show) -> str:
    """A LayerParameter as text.

    Parameters
    ----------
    style : {'one line', 'grouped', 'long'}
    show : callable of a message and whether it is to stand on one line, giving its text
    """
    foreign = foreign_of(layer)
    if style == ONE_LINE:
        return f"layer {{ {with_foreign(show(layer, True), foreign, ' ').strip()} }}"
    inner = _grouped(layer, show) if style == GROUPED else show(layer, False)
    inner = with_foreign(inner, foreign, "\n") if foreign else inner
    lines = "\n".join(f"  {line}" if line.strip() else "" for line in inner.strip().splitlines())
    return f"layer {{\n{lines}\n}}"


def _grouped(layer: Any, show: Show) -> str:
    head, lines = type(layer)(), []
    rest = type(layer)()
    rest.CopyFrom(layer)
    for name in _HEAD:
        rest.ClearField(name)
    head.CopyFrom(layer)
    for field, _ in rest.ListFields():
        head.ClearField(field.name)
        one = type(layer)()
        one.CopyFrom(rest)
        for other, _ in rest.ListFields():
            if other.name != field.name:
                one.ClearField(other.name)
        lines.append(show(one, True).strip())
    return "\n".join([show(head, True).strip(), *lines])
