"""The command line: it parses (:mod:`enc_caffe.flags`) and calls. One short module a command."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import sys
import tempfile
from pathlib import Path
from typing import NoReturn, Optional, Sequence

from enc_caffe import __version__
from enc_caffe.errors import EncError, nearest
from enc_caffe.extensions import load_extensions
from enc_caffe.files.output import check_apart
from enc_caffe.fork import caffe_root
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.stopping import stoppable

#: The commands and what the help says of each. A command's flags are imported when it is named, what it does when it runs: all of them
#: together take a second.
COMMANDS = {
    "inspect": "layers, MACs, parameters, schemes and r_max",
    "metrics": "singular values of every layer, and with --lmdb its measured accuracy by rank",
    "metrics plot": "curves of all layers' metrics (Figure 2)",
    "latency": "time of every layer by form, measured in a runtime",
    "search": "ranks of all layers for a budget",
    "search plot": "ranks and their bounds by layer (Figure 3), or Pareto curves of sweeps (Figure 6)",
    "emit": "prototxt, solver and caffemodel of a rank plan",
    "evaluate": "top-k accuracy over an LMDB, equal to caffe test",
    "finetune": "train a network with stock caffe train",
    "compress": "all of it: a smaller network at the MACs you ask for",
    "report": "results as HTML, Markdown, and figures",
    "data": "make LMDBs of images",
    "store": "list, explain and prune the results that are kept",
    "doctor": "versions, Caffe, its kernels and their speed, GPUs",
}

#: Those that run Caffe, or say what it has.
RUN_CAFFE = ("inspect", "metrics", "latency", "search", "emit", "evaluate", "finetune", "compress", "doctor")
#: What a command's BLAS is loaded by before it runs, while the environment is that of workers. SciPy's other modules come when they are used.
BLAS = ("numpy", "scipy.linalg")
#: Those that compute nothing, and start without it.
LIGHT = ("data", "report", "store")
TWO_WORDS = tuple(name for name in COMMANDS if " " in name)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line; the flags of a command fill a screen."""
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help says what there is\n")


def parser(only: Optional[str] = None) -> argparse.ArgumentParser:
    """The whole command line; ``only``: the flags of one command, and of the others the names and what they are for."""
    top = _Parser(prog="enc-caffe", description="Low-rank compression of whole Caffe networks.")
    top.add_argument("--version", action="version", version=f"enc-caffe {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, words in COMMANDS.items():
        if only is not None and name != only:
            commands.add_parser(name, help=words)
            continue
        importlib.import_module(_module(name, "enc_caffe.flags")).register(commands)
        if name not in RUN_CAFFE:
            continue
        commands.choices[name].add_argument(
            "--caffe_root", type=Path, metavar="DIR",
            help="run this Caffe instead, such as your own fork (a built one: DIR/python/caffe, DIR/build/tools/caffe)",
        )  # fmt: skip
    return top


def _joined(arguments: list[str]) -> list[str]:
    """A command of two words, such as ``search plot``, as one argument."""
    if " ".join(arguments[:2]) in TWO_WORDS:
        return [" ".join(arguments[:2]), *arguments[2:]]
    return arguments


def prepare(arguments: Sequence[str]) -> bool:
    """Import what a command computes with, before it is run; nothing where only help is asked for.

    Returns
    -------
    bool
        Whether all of :data:`BLAS` is there; what a command that needs no Caffe loads of it later has to find the environment of workers too.
    """
    given = _joined(list(arguments))
    if not given or given[0] not in COMMANDS or {"-h", "--help"} & set(given):
        return False
    for module in (*_blas(given), _module(given[0])):
        importlib.import_module(module)
    return _blas(given) == BLAS


def _blas(given: Sequence[str]) -> Sequence[str]:
    """Modules of :data:`BLAS` that a command computes with. A search without a network factorises nothing."""
    if given[0] in LIGHT:
        return ()
    searches = given[0].startswith("search") and not any(a.startswith("--mo") for a in given)
    return BLAS[:1] if searches else BLAS


def _module(command: str, room: str = __name__) -> str:
    return f"{room}.{command.replace(' ', '_')}"


def _refuse(top: argparse.ArgumentParser, name: str, unknown: Sequence[str]) -> NoReturn:
    """Flags that a command does not have, with the nearest that it has."""
    commands = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    command = commands.choices[name]
    flags = [flag for action in command._actions for flag in action.option_strings]
    command.error(f"unrecognized arguments: {' '.join(unknown)}{nearest(unknown[0].partition('=')[0], flags)}")
    raise AssertionError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Arguments of a command; a preset (``--quality``) sets defaults, so that flags that are given hold wherever they stand."""
    given = _joined(list(arguments))
    top = parser(given[0] if given else "")
    args, unknown = top.parse_known_args(given)
    if unknown:
        _refuse(top, given[0], unknown)
    if getattr(args, "quality", None):
        command, presets = args.presets
        command.set_defaults(**presets[args.quality])
        args = top.parse_args(given)
    return args


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command; returns the exit status (0, 1 for an error, 2 for wrong usage, 130 when interrupted, 143 by
    SIGTERM)."""
    for stream in (sys.stdout, sys.stderr):
        # Layers and files have names that a terminal of another encoding cannot show.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        # Before the arguments: --schemes may name one of them.
        load_extensions()
    except EncError as exc:
        print(f"enc-caffe: {exc}", file=sys.stderr)
        return exc.exit_status
    args = parse(sys.argv[1:] if arguments is None else arguments)
    return stoppable(f"enc-caffe {args.command}", lambda: _run(args))


#: Flags of files and folders that are read, and of those that are written.
_READ = (
    "model", "weights", "lmdb", "images", "test_lmdb", "test_images", "train_lmdb", "held_out_lmdb", "solver", "ranks", "metrics", "latency",
    "mean_file", "imported", "source", "distill",
)  # fmt: skip
# --export is refused where it exists.
_WRITTEN = ("out", "json")


def _check_apart(args: argparse.Namespace) -> None:
    """No command writes over what it reads; a training writes into its folder, and replaces none."""
    given = vars(args)
    # Of these the new folder gets its own.
    remade = ("solver", "ranks")
    positional = {"metrics": "METRICS.json", "source": "the source", "imported": "--import"}
    inputs = {positional.get(n, f"--{n}"): v for n in _READ if isinstance(v := given.get(n), Path)}
    for name in _WRITTEN:
        path = given.get(name)
        if isinstance(path, Path) and not (args.command == "finetune" and path.is_dir()):
            own = {n: v for n, v in inputs.items() if not (path.is_dir() and n.lstrip("-") in remade)}
            check_apart(path, own, f"--{name}")


def _run(args: argparse.Namespace) -> int:
    try:
        _check_apart(args)
        with caffe_root(getattr(args, "caffe_root", None)):
            if getattr(args, "weights", None) is not None:
                # Here, since it loads NumPy.
                from enc_caffe.cli.weights import take_weights

                take_weights(args)
            importlib.import_module(_module(args.command)).run(args)
    except EncError as exc:
        say(f"enc-caffe {args.command}: {exc}")
        return exc.exit_status
    except BrokenPipeError:
        return 0
    except OSError as exc:
        # Every place that reads or writes has better words; this is for what none of them expects.
        where = exc.filename or f"a temporary file (in {tempfile.gettempdir()} or /dev/shm)"
        full = exc.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        advice = "; make room there, or name another folder by TMPDIR" if full else ""
        say(f"enc-caffe {args.command}: {where}: {exc.strerror or exc}{advice}")
        return 1
    except MemoryError:
        print(
            f"enc-caffe {args.command}: the memory does not suffice; take fewer --workers, or a larger machine",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
