"""Protobuf's wire format: walking through a message's fields without copying it, and writing fields."""

from __future__ import annotations

import mmap
from typing import Iterator, Union

from enc_caffe.errors import WeightsError

Buffer = Union[mmap.mmap, bytes]


def varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """Number that starts at a place, and where the next field starts."""
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise WeightsError("a number runs past the end of its message")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(data: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Fields of a message as (number, wire type, start, end); for a varint, start is its value."""
    while at < end:
        key, at = varint(data, at, end)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise WeightsError("a field has number 0")
        if wire == 0:
            value, at = varint(data, at, end)
            yield number, wire, value, at
            continue
        if wire == 2:
            size, at = varint(data, at, end)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise WeightsError(f"a field has wire type {wire}")
        if at + size > end:
            raise WeightsError(f"a field claims {size} bytes where {end - at} are left")
        yield number, wire, at, at + size
        at += size


def tag(number: int, wire: int) -> bytes:
    """Tag of a field."""
    return encode(number << 3 | wire)


def encode(value: int) -> bytes:
    """A number as varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(number: int, payload: bytes) -> bytes:
    """A field that holds bytes."""
    return tag(number, 2) + encode(len(payload)) + payload
