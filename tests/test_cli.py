"""The command line as a whole: it starts at once, and says the same of each command everywhere."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from enc_caffe.cli import COMMANDS, RUN_CAFFE, main, parser

IMPORTED = """
import sys
from enc_caffe.cli import main
wanted = int(sys.argv.pop(1))
try:
    status = main(sys.argv[1:])
except SystemExit as exc:
    status = exc.code
assert status == wanted, status
sys.stderr.write("\\n")
print(*sorted(m for m in sys.modules if m in ("numpy", "scipy", "rich", "google.protobuf") or m.startswith(("enc_caffe.cli.", "enc_caffe.flags."))), file=sys.stderr)
"""


def test_names_that_a_terminal_cannot_show_are_written_as_escapes(tmp_path: Path) -> None:
    data = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n'
    layer = 'layer { name: "卷积" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }\n'
    (tmp_path / "n.prototxt").write_text(data + layer, encoding="utf-8")
    command = [sys.executable, "-m", "enc_caffe", "inspect", "--model", str(tmp_path / "n.prototxt")]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, check=True)
    assert rb"\u5377\u79ef" in done.stdout and not done.stderr


def imported(*arguments: str, status: str = "0") -> set[str]:
    """Modules that are slow to import, and those of commands, after these arguments and this exit status."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, status, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True
    )  # fmt: skip
    return set(done.stderr.splitlines()[-1].split())


def test_the_help_says_what_the_commands_say() -> None:
    (commands,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert {a.dest: a.help for a in commands._choices_actions} == COMMANDS
    assert {n for n, p in commands.choices.items() if "--caffe_root" in p._option_string_actions} == set(RUN_CAFFE)


def test_help_and_version_import_nothing_that_is_slow() -> None:
    assert imported("--help") == set() and imported("--version") == set()


#: Their help lists the schemes that there are.
WITH_SCHEMES = {"inspect", "metrics", "latency", "search", "search plot", "compress"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_imports_its_own_flags_alone(command: str) -> None:
    found = imported(*command.split(), "--help")
    own = f"enc_caffe.flags.{command.replace(' ', '_')}"
    others = {f"enc_caffe.flags.{other.replace(' ', '_')}" for other in COMMANDS if other != command}
    assert own in found and not found & others
    slow = {m for m in found if not m.startswith("enc_caffe.flags.")}
    assert slow <= ({"numpy", "scipy"} if command in WITH_SCHEMES else set())


def test_wrong_flags_are_said_before_anything_slow_is_imported() -> None:
    found = imported("compress", "--model", "m", "--nonsense", status="2")
    assert {m for m in found if not m.startswith("enc_caffe.flags.")} == set()


def test_a_search_without_images_imports_nothing_that_runs_caffe(tmp_path: Path) -> None:
    found = imported(
        "search",
        str(tmp_path / "none.json"),
        "--out",
        str(tmp_path / "ranks.json"),
        "--target_flops",
        "0.5",
        status="1",
    )
    assert "enc_caffe.cli.search" in found and not found & {
        "google.protobuf",
        "enc_caffe.cli.images",
        "enc_caffe.cli.evaluating",
    }


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "COMMAND"), (["sqeeze"], "invalid choice: 'sqeeze'"), (["emit"], "--ranks"),
])  # fmt: skip
def test_wrong_usage(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["search", "m.json", "--out", "o", "--target_flops", "0.9:0.2:0.1"],
            "enc-caffe search: argument --target_flops: 0.9:0.2:0.1: the range is empty",
        ),
        (
            ["search", "m.json", "--out", "o", "--target_flops", "0:1:0.0000001"],
            "10,000,001 numbers; 1,000 at most, so a larger step is needed",
        ),
        (
            ["compress"],
            "enc-caffe compress: the following arguments are required: --model, --weights, --out; enc-caffe compress --help says",
        ),
        (
            ["inspect", "--model", "m", "--solvr", "s"],
            "enc-caffe inspect: unrecognized arguments: --solvr s (did you mean --solver?)",
        ),
        (["compres"], "invalid choice: 'compres'"),
        (
            ["data", "folder", "pictures", "--resize", "0,5", "--out", "o"],
            "argument --resize: 0,5: two positive integers H,W are needed",
        ),
    ],
)
def test_wrong_flags_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert ended.value.code == 2 and words in said.err and said.err.count("\n") == 1 and not said.out
