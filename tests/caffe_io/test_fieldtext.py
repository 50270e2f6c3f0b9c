"""Fields in the text of a prototxt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enc_caffe.caffe_io.fieldtext import blanked, field_at, fields_of, values_of, without

TEXT = """name: "x{" a: -1.5e-3, b { c: 1 # c: 2
  d: [1, 2] e < f: "s" 't' > } g: true; h { }
weight_filler {
  type: "xavier"
}  # why
last: 7
"""


def test_fields_are_found_where_they_are() -> None:
    found = [(*f.path, f.name, TEXT[slice(*f.value)].strip()) for f in fields_of(TEXT)]
    assert found == [
        ("name", '"x{"'), ("a", "-1.5e-3"), ("b", 'c: 1 # c: 2\n  d: [1, 2] e < f: "s" \'t\' >'), ("b", "c", "1"), ("b", "d", "1, 2"),
        ("b", "e", "f: \"s\" 't'"), ("b", "e", "f", "\"s\" 't'"), ("g", "true"), ("h", ""), ("weight_filler", 'type: "xavier"'),
        ("weight_filler", "type", '"xavier"'), ("last", "7"),
    ]  # fmt: skip
    assert [TEXT[f.start : f.end] for f in fields_of(TEXT)][1] == "a: -1.5e-3,"
    field = field_at(TEXT, 2, 3)
    assert field is not None and (field.path, field.name) == (("b",), "d") and field_at(TEXT, 2, 4) is None


def test_fields_go_with_the_lines_that_they_are_on() -> None:
    text = without(TEXT, lambda f: f.name in ("weight_filler", "g", "c"))
    assert text == TEXT.replace(" c: 1", "").replace(" g: true;", "").replace(
        'weight_filler {\n  type: "xavier"\n}  # why', "# why"
    )
    assert without("a: 1\n  b: 2\nc: 3\n", lambda f: f.name == "b") == "a: 1\nc: 3\n"
    assert without("x { a: 1 }", lambda f: f.name == "a") == "x { }"


def test_a_field_gives_way_to_another_on_the_same_lines() -> None:
    field = next(f for f in fields_of(TEXT) if f.name == "weight_filler")
    changed = blanked(TEXT, field, "z: 1")
    assert changed.count("\n") == TEXT.count("\n") and "z: 1\n\n" in changed and "xavier" not in changed


def test_values_without_a_message_type() -> None:
    values = values_of('order: 0 order: 2 p { h: 3 n { q: [1, 2] } } s: "text" o < v: 1 >')
    assert values == {
        "order": ["0", "2"],
        "p": [{"h": ["3"], "n": [{"q": ["1", "2"]}]}],
        "s": ["text"],
        "o": [{"v": ["1"]}],
    }


@given(st.text(alphabet="ab{}<>[]#\"'\\:;, \n1-", max_size=60))
def test_any_text_has_fields_or_none(text: str) -> None:
    for field in fields_of(text):
        assert text[field.start :].startswith(field.name) and field.start < field.value[0] <= field.end <= len(text) + 1
    assert without(text, lambda f: False) == text
    values_of(text)
