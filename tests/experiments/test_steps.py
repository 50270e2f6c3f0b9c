"""Steps are done once for the same inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.experiments.steps import Steps


def test_a_finished_step_is_not_done_again(tmp_path: Path) -> None:
    said: list[str] = []
    steps, output, made = Steps(tmp_path / "steps", said.append), tmp_path / "out", []

    def make() -> dict[str, int]:
        made.append(1)
        output.write_text("x")
        return {"value": len(made)}

    assert steps.run("a", {"k": 1}, [output], make) == {"value": 1}
    assert steps.run("a", {"k": 1}, [output], make) == {"value": 1}
    assert said == ["a ...", "a: done before"]
    # Other inputs, a lost output, a damaged record: each does it again.
    assert steps.run("a", {"k": 2}, [output], make) == {"value": 2}
    output.unlink()
    assert steps.run("a", {"k": 2}, [output], make) == {"value": 3}
    (tmp_path / "steps" / "a.json").write_text("{")
    assert steps.run("a", {"k": 2}, [output], make) == {"value": 4}


def test_a_step_that_fails_leaves_no_record(tmp_path: Path) -> None:
    steps = Steps(tmp_path)

    def stop() -> dict[str, int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.run("a", {}, [], stop)
    assert steps.run("a", {}, [], lambda: {"value": 1}) == {"value": 1}
