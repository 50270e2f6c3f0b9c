"""Names of their own for layers without weights that share one: Caffe takes such a file, and whoever follows blobs by layers goes astray.

Layers of phases, stages and levels may share a name on purpose; those stay.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from enc_caffe.caffe_io.verbatim import rewrite, text_of
from enc_caffe.shapes import FORK_WEIGHTED, KNOWN_TYPES, WEIGHTLESS, brings_data


def name_apart(net: Any) -> None:
    """Give the second and each later layer of a name another one (``relu_2``), in its text too."""
    taken = {layer.name for layer in net.layer} | {top for layer in net.layer for top in layer.top}
    seen: set[str] = set()
    for layer in net.layer:
        if not _free(layer.type) or layer.include or layer.exclude:
            continue
        if layer.name in seen:
            stem = layer.name or layer.type.lower()
            _rename(layer, next(n for n in (f"{stem}_{i}" for i in itertools.count(2)) if n not in taken))
            taken.add(layer.name)
        seen.add(layer.name)


def _free(kind: str) -> bool:
    """Whether no weights are found by the name of a layer of this type.

    Of types that nobody here knows too: Caffe gives whatever the file has under a name to the first layer of that name, and nothing to the
    second.
    """
    return not brings_data(kind) and (kind in WEIGHTLESS or kind not in KNOWN_TYPES | FORK_WEIGHTED)


def _rename(layer: Any, name: str) -> None:
    text, old = text_of(layer), layer.name
    layer.name = name
    if text is None:
        return
    # The layer's own name comes before those of weights, if a layer without weights had such.
    own = re.compile(rf"""\bname\s*:\s*(["'])({re.escape(old)})\1""")
    rewrite(
        layer, own.sub(lambda m: f"name: {m[1]}{name}{m[1]}", text, count=1) if own.search(text) else _named(text, name)
    )


def _named(text: str, name: str) -> str:
    """The text of a layer that has no name."""
    return re.sub(r"^(\s*layer\s*:?\s*[{<])", lambda m: f'{m[1]} name: "{name}"', text, count=1, flags=re.MULTILINE)
