"""Structure-aware mutations for fuzz.py: of prototxt text, protobuf messages, JSON and images, from a seeded generator."""

from __future__ import annotations

import copy
import json
import random
import re
import struct
import zlib
from typing import Any, Callable, Sequence, Union

from enc_caffe.caffe_io.wire import encode, fields, tag
from enc_caffe.errors import EncError

#: Whole numbers at which something ends: bits, Caffe's limits, what a machine can hold.
NUMBERS = (
    0, 1, -1, 2, 3, 5, 16, 127, 255, 256, 1000, 4097, 65535, 65536, 10**6, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32,
    10**12, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**30,
)  # fmt: skip
REALS = (0.5, -0.5, 1.5, 1e-320, 1e-30, 1e30, 1e300, -1e300, float("inf"), float("-inf"), float("nan"))
STRINGS = (
    "", " ", "x", "data", "label", "..", "../../x", "/dev/zero", "/dev/null", "a/b", "a\x00b", "a\nb\nc\nd\ne", "\x1b[2J", "\ud800",
    "é漢", "\u2028", "<script>", "%s%n", "{0}", "'\"", "#", "A" * 300, "conv1", "Convolution", "Python", "InnerProduct", "\r\n\r\n\r\n\r\n",
)  # fmt: skip
_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"?|[{}<>\[\]:,]|[A-Za-z_]\w*|[-+.\w]+|\s+|.""", re.DOTALL)


def times(rng: random.Random) -> int:
    """How many mutations: mostly one, sometimes many."""
    return 1 if rng.random() < 0.5 else min(40, 1 + int(rng.expovariate(0.7)))


def raw(rng: random.Random, data: bytes) -> bytes:
    """Bytes changed without any regard to what they mean."""
    out = bytearray(data)
    for _ in range(times(rng)):
        at = rng.randrange(len(out) + 1)
        what = rng.randrange(6)
        if what == 0 and out:
            out[at % len(out)] = rng.randrange(256)
        elif what == 1 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif what == 2:
            del out[at : at + rng.choice((1, 1, 2, 4, 8, 64))]
        elif what == 3:
            out[at:at] = rng.randbytes(rng.choice((1, 1, 2, 4, 8)))
        elif what == 4:
            other = rng.randrange(len(out) + 1)
            out[at:at] = out[other : other + rng.choice((1, 4, 16, 256))]
        elif rng.random() < 0.3:
            del out[at:]
    return bytes(out)


def prototxt(rng: random.Random, seeds: Sequence[bytes], words: Sequence[str]) -> bytes:
    """A prototxt with tokens, values, blocks and nesting changed; ``words`` are names of fields and of layer types."""
    text = rng.choice(seeds).decode()
    tokens = [t.group() for t in _TOKEN.finditer(text)]
    for _ in range(times(rng)):
        if not tokens:
            break
        at, kind = rng.randrange(len(tokens)), rng.randrange(16)
        if kind < 7:
            values = [i for i, t in enumerate(tokens) if t[0] in "\"'-.0123456789"]
            at = rng.choice(values) if values else at
            quoted = tokens[at][0] in "\"'"
            tokens[at] = _text_value(rng, quoted if rng.random() < 0.9 else not quoted, tokens)
        elif kind < 9:
            names = [i for i, t in enumerate(tokens) if t[0].isalpha()]
            if names:
                tokens[rng.choice(names)] = rng.choice(words)
        elif kind == 9:
            del tokens[at : at + rng.choice((1, 1, 2, 3, 8))]
        elif kind == 10:
            tokens[at:at] = tokens[rng.randrange(len(tokens)) :][: rng.choice((1, 4, 20))]
        elif kind == 11:
            _move_block(rng, tokens)
        elif kind == 12:
            value = rng.choice(("1", "0", "-1", str(rng.choice(NUMBERS))))
            tokens.insert(at, f" {rng.choice(words)}: {value} " * rng.choice((1, 2, 3, 40)))
        elif kind == 13:
            depth = rng.choice((2, 30, 99, 200, 2000))
            tokens.insert(
                at,
                rng.choice([*words, "layer", "x"])
                + " { "
                + (rng.choice(words) + " { ") * depth
                + "} " * rng.choice((0, depth)),
            )
        elif kind == 14:
            dims = " dim: ".join(str(rng.choice(NUMBERS)) for _ in range(rng.choice((1, 3, 33, 400))))
            tokens.insert(at, f" shape {{ dim: {dims} }} ")
        else:
            other = [t.group() for t in _TOKEN.finditer(rng.choice(seeds).decode())]
            cut = rng.randrange(len(other) + 1)
            tokens[at:] = other[cut:]
    data = "".join(tokens).encode("utf-8", "surrogatepass")
    return raw(rng, data) if rng.random() < 0.1 else data


def _text_value(rng: random.Random, quoted: bool, tokens: list[str]) -> str:
    if quoted:
        if rng.random() < 0.4:
            return rng.choice([t for t in tokens if t[0] == '"'] or ['""'])
        inner = rng.choice(STRINGS)
        if rng.random() < 0.2:
            inner = "\\" + "".join(rng.choice("01237xn'\"\\u") for _ in range(rng.randrange(1, 9)))
        elif rng.random() < 0.9:
            inner = inner.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
        return f'"{inner}"'
    return str(rng.choice(NUMBERS + REALS))


def _move_block(rng: random.Random, tokens: list[str]) -> None:
    """One ``{ ... }`` with its name is repeated, moved or taken out."""
    opened = [i for i, t in enumerate(tokens) if t == "{"]
    if not opened:
        return
    start = end = rng.choice(opened)
    depth = 0
    for end in range(start, len(tokens)):
        depth += (tokens[end] == "{") - (tokens[end] == "}")
        if depth == 0:
            break
    while start > 0 and not tokens[start - 1][0].isalpha():
        start -= 1
    block = tokens[max(0, start - 1) : end + 1]
    what = rng.randrange(3)
    if what != 1:
        del tokens[max(0, start - 1) : end + 1]
    if what != 0:
        at = rng.randrange(len(tokens) + 1)
        tokens[at:at] = block * rng.choice((1, 1, 2, 20))


#: A message as (number, wire type, value); value is an int, bytes, or again such a list.
Fields = list[list[Any]]


def tree(data: bytes, nested: Sequence[frozenset[int]]) -> Fields:
    """The fields of a message; those whose numbers are in ``nested[0]`` are messages themselves, and so on."""
    found: Fields = []
    for number, wire, a, b in fields(data, 0, len(data)):
        value: Union[int, bytes, Fields] = a if wire == 0 else data[a:b]
        if wire == 2 and nested and number in nested[0]:
            value = tree(data[a:b], nested[1:])
        found.append([number, wire, value])
    return found


def flat(message: Fields) -> bytes:
    """The bytes of a message; lengths are what they must be."""
    out = b""
    for number, wire, value in message:
        if isinstance(value, list):
            value = flat(value)
        if isinstance(value, int):
            body = encode(value % 2**64)
        else:
            body = encode(len(value)) + value if wire == 2 else value
        out += tag(number, wire) + body
    return out


def protobuf(rng: random.Random, seeds: Sequence[bytes], nested: Sequence[frozenset[int]]) -> bytes:
    """A message with fields changed at every depth, or its bytes."""
    data = rng.choice(seeds)
    try:
        message = tree(data, nested)
    except EncError:
        return raw(rng, data)
    for _ in range(times(rng)):
        own = message
        while own and rng.random() < 0.8:
            inner = [f[2] for f in own if isinstance(f[2], list)]
            if not inner:
                break
            own = rng.choice(inner)
        _change_field(rng, own)
    data = flat(message)
    return raw(rng, data) if rng.random() < 0.2 else data


def _change_field(rng: random.Random, own: Fields) -> None:
    what = rng.randrange(9)
    if not own or what == 0:
        wire = rng.choice((0, 0, 1, 2, 2, 5))
        value: Any = {0: rng.choice(NUMBERS), 1: rng.randbytes(8), 5: rng.randbytes(4)}.get(
            wire, rng.randbytes(rng.randrange(20))
        )
        own.insert(rng.randrange(len(own) + 1), [rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 2**29 - 1)), wire, value])
        return
    field = rng.choice(own)
    if what == 1:
        own.remove(field)
    elif what == 2:
        own.insert(rng.randrange(len(own) + 1), copy.deepcopy(field))
    elif what == 3:
        field[0] = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 100))
    elif isinstance(field[2], int):
        field[2] = rng.choice(NUMBERS) if what < 8 else field[2] + rng.choice((-1, 1))
    elif isinstance(field[2], bytes):
        if field[1] == 2:
            field[2] = _changed_bytes(rng, field[2])
        else:
            field[2] = rng.randbytes(len(field[2]))
    elif what == 8:
        field[2] = flat(field[2])[: rng.randrange(40)]


def _changed_bytes(rng: random.Random, value: bytes) -> bytes:
    what = rng.randrange(7)
    if what == 0:
        return rng.choice(STRINGS).encode("utf-8", "surrogatepass")
    if what == 1:
        return b"".join(encode(rng.choice(NUMBERS) % 2**64) for _ in range(rng.choice((1, 2, 4, 33, 500))))
    if what == 2:
        return value[: rng.randrange(len(value) + 1)]
    if what == 3:
        at = rng.randrange(len(value) + 1) // 4 * 4
        return value[:at] + struct.pack("<f", rng.choice((float("nan"), float("inf"), 3e38, 1e-45))) + value[at + 4 :]
    if what == 4:
        return value + rng.randbytes(rng.choice((1, 2, 4, 8)))
    return raw(rng, value)


def as_json(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """JSON with values, keys and nesting changed; sometimes its text."""
    data = json.loads(rng.choice(seeds))
    for _ in range(times(rng)):
        places = _places(data)
        holder, key = rng.choice(places)
        _change_value(rng, holder, key, places)
    text = json.dumps(data)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        at = rng.randrange(len(text) + 1)
        numbers = [m.span() for m in re.finditer(r"-?\d[\d.e+-]*", text)]
        start, end = rng.choice(numbers) if numbers and rng.random() < 0.7 else (at, at)
        depth = rng.choice((10, 90, 500, 5000))
        text = text[:start] + rng.choice((
            "1e999", "-1e999", "9" * 5000, "1" * 400, "1e-999", "NaN", "Infinity", "-0", "true", "null", '"\\ud800"', '"\\u0000"',
            "[" * depth + "]" * rng.choice((0, depth)), '{"a":' * depth + "1" + "}" * depth, ",", "1.0", "1.5",
        )) + text[end:]  # fmt: skip
    out = text.encode("utf-8", "surrogatepass")
    return raw(rng, out) if rng.random() < 0.1 else out


def _places(data: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    todo = [data]
    while todo:
        own = todo.pop()
        keys = list(own) if isinstance(own, dict) else list(range(len(own)))
        for key in keys:
            found.append((own, key))
            if isinstance(own[key], (dict, list)) and own[key]:
                todo.append(own[key])
    return found or [(data, None)]


def _change_value(rng: random.Random, holder: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    if (
        key is None
        or (isinstance(holder, dict) and key not in holder)
        or (isinstance(holder, list) and key >= len(holder))
    ):
        return
    what = rng.randrange(10)
    if what < 4:
        makers: tuple[Callable[[], Any], ...] = (
            lambda: rng.choice(NUMBERS), lambda: rng.choice(REALS), lambda: rng.choice(STRINGS), lambda: rng.choice((None, True, False)),
            list, dict, lambda: str(rng.choice(NUMBERS)), lambda: [rng.choice(NUMBERS)] * rng.choice((1, 2, 100)),
        )  # fmt: skip
        holder[key] = rng.choice(makers)()
    elif what == 4 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] = rng.choice(
            (-holder[key], holder[key] * 10, holder[key] + 1, holder[key] * 1e20, float(holder[key]))
        )
    elif what == 5:
        del holder[key]
    elif what == 6:
        if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[rng.choice(STRINGS)] = holder[key]
    elif what == 7:
        other, there = rng.choice(places)
        if (
            there is not None
            and not (isinstance(other, dict) and there not in other)
            and not (isinstance(other, list) and there >= len(other))
        ):
            holder[key] = copy.deepcopy(other[there])
    elif what == 8 and isinstance(holder[key], list):
        del holder[key][rng.randrange(len(holder[key]) + 1) :]
    else:
        holder[key] = [holder[key]] if rng.random() < 0.5 else {"x": holder[key]}


def png_size(rng: random.Random, data: bytes) -> bytes:
    """A PNG that claims another size, its checksum right again."""
    at = data.find(b"IHDR")
    if at < 0:
        return raw(rng, data)
    sizes = (0, 1, 2, 100, 5000, 30000, 65500, 2**20, 2**31 - 1, 2**32 - 1)
    head = data[at : at + 4] + struct.pack(">II", rng.choice(sizes), rng.choice(sizes)) + data[at + 12 : at + 17]
    return data[:at] + head + struct.pack(">I", zlib.crc32(head)) + data[at + 21 :]
