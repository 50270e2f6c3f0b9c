"""Messages say people's own names for what was made of their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.terminal import naming


def test_messages_say_the_users_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(naming, "_CALLED", {})
    monkeypatch.chdir(tmp_path)
    naming.call(Path("cache/ab/cats"), Path("my/cats"))
    # One whose path begins as the other's.
    naming.call(Path("cache/ab/cats.txt"), Path("list of cats.txt"))
    assert (
        naming.named("cache/ab/cats: no labels, as in cache/ab/cats.txt")
        == "my/cats: no labels, as in list of cats.txt"
    )
    naming.say(ValueError(f"{tmp_path}/cache/ab/cats/data.mdb: gone"))
    assert capsys.readouterr().err == "my/cats/data.mdb: gone\n"
