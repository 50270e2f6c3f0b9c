"""Single fields in the text of a prototxt: where they are, how they are taken out, and what fields hold that no message has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable, Iterator, Optional, Union

#: A string without an end takes the rest of its line: looking for the end again from every quote would take for ever.
TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|[{}<>\[\]]|[A-Za-z_][\w.]*|\s+|.""", re.DOTALL)
#: A number, a word, or strings that stand behind each other.
_SCALAR = re.compile(
    r"""(?:"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)(?:\s*(?:"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?))*|-?\s*[\w.+-]+"""
)
_NAME = re.compile(r"[A-Za-z_]\w*\Z")
#: A character that no prototxt has.
_GONE = "\0"
#: Values of a message's fields by name: numbers and words as text, strings, messages.
Values = dict[str, list[Union[str, "Values"]]]  # type: ignore[misc]
#: Messages nested deeper than this are not looked into.
_DEEPEST = 50
#: Texts of so many characters at most are a layer's, which is looked into again and again.
_SHORT = 4096


@dataclass(frozen=True)
class Field:
    """A field of a text: the messages around it, its name, and where it begins and ends, and its value does."""

    path: tuple[str, ...]
    name: str
    start: int
    end: int
    value: tuple[int, int]


def fields_of(text: str) -> Iterator[Field]:
    """All fields of a message's text, a message before the fields in it; what is no field is passed over."""
    return iter(_known(text)) if len(text) <= _SHORT else _fields(text, 0, len(text), ())


@lru_cache(maxsize=4096)
def _known(text: str) -> tuple[Field, ...]:
    return tuple(_fields(text, 0, len(text), ()))


def _fields(text: str, at: int, end: int, path: tuple[str, ...]) -> Iterator[Field]:
    while at < end:
        token = TOKEN.match(text, at, end)
        assert token is not None
        word, begin, at = token.group(), at, token.end()
        if not _NAME.match(word):
            continue
        after = _skip(text, at, end)
        if text[after : after + 1] == ":":
            after = _skip(text, after + 1, end)
        opened = text[after : after + 1]
        if opened and opened in "{<[" and after < end:
            close = _closing(text, after, end)
            yield Field(path, word, begin, _behind(text, close, end), (after + 1, close - 1))
            if opened != "[" and len(path) < _DEEPEST:
                yield from _fields(text, after + 1, close - 1, (*path, word))
            at = close
        elif text[at:after].strip() and (scalar := _SCALAR.match(text, after, end)):
            yield Field(path, word, begin, _behind(text, scalar.end(), end), scalar.span())
            at = scalar.end()


def _skip(text: str, at: int, end: int) -> int:
    """Behind white space and comments."""
    while at < end:
        token = TOKEN.match(text, at, end)
        assert token is not None
        if not (token.group()[0] == "#" or token.group().isspace()):
            return at
        at = token.end()
    return end


def _behind(text: str, at: int, end: int) -> int:
    """Behind what may separate two fields."""
    after = _skip(text, at, end)
    return after + 1 if after < end and text[after] in ",;" else at


def _closing(text: str, at: int, end: int) -> int:
    """Behind the brace that closes the one here."""
    depth = 0
    while at < end:
        token = TOKEN.match(text, at, end)
        assert token is not None
        word, at = token.group(), token.end()
        if word in "{<[":
            depth += 1
        elif word in "}>]":
            depth -= 1
            if depth == 0:
                return at
    return end


def field_at(text: str, line: int, column: int) -> Optional[Field]:
    """The field whose name begins at a line and column, both counted from 1."""
    start = 0
    for _ in range(line - 1):
        start = text.find("\n", start) + 1
    start += column - 1
    return next((field for field in fields_of(text) if field.start == start), None)


def without(text: str, gone: Callable[[Field], bool]) -> str:
    """A text without some of its fields, and without the lines that only they were on."""
    parts, done = [], 0
    for field in fields_of(text):
        if field.start >= done and gone(field):
            parts += [text[done : field.start], _GONE]
            done = field.end
    if not parts:
        return text
    marked = "".join([*parts, text[done:]])
    marked = re.sub(rf"(?m)^[ \t]*(?:{_GONE}[ \t]*)+\n", "", marked)
    return re.sub(rf"[ \t]*{_GONE}", "", re.sub(rf"(?m)^([ \t]*)(?:{_GONE}[ \t]*)+", r"\1", marked))


def blanked(text: str, field: Field, instead: str = "") -> str:
    """A text with other words in a field's place, lines as they were."""
    gone = text[field.start : field.end]
    lines = "\n" * gone.count("\n")
    return text[: field.start] + instead + lines + " " * (len(gone) - len(lines) - len(instead)) + text[field.end :]


def values_of(text: str) -> Values:
    """What a message's text holds, whatever its fields are: for layers whose parameters no message of this Caffe has."""
    found: Values = {}
    done = 0
    for field in fields_of(text):
        if field.path or field.start < done:
            continue
        inside = text[slice(*field.value)]
        opened = text[field.value[0] - 1 : field.value[0]]
        if opened == "[":
            found.setdefault(field.name, []).extend(part.strip() for part in inside.split(",") if part.strip())
        elif opened and opened in "{<" and field.value[1] < field.end:
            found.setdefault(field.name, []).append(values_of(inside))
        else:
            found.setdefault(field.name, []).append(inside.strip("\"'"))
        done = field.end
    return found
