"""One scheme behind the other, each on the network that the one before has written: 3C of He, Zhang and Sun (ICCV 2017; [1] of the paper).

Spatial factorisation, channel factorisation, channel pruning: every step may use the same root of the target, so that the last network has
what was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from enc_caffe.complexity import network_complexity
from enc_caffe.errors import InfeasibleError
from enc_caffe.experiments.run import plain
from enc_caffe.experiments.steps import Steps
from enc_caffe.experiments.timed import cpu_seconds
from enc_caffe.form import CONVENTIONS
from enc_caffe.network import Network
from enc_caffe.pipeline.compression import compress
from enc_caffe.pipeline.making import Compressed, Making, Output
from enc_caffe.pipeline.source import Resources, Source
from enc_caffe.search.options import SearchOptions


def folders(turns: Sequence[tuple[str, ...]]) -> list[str]:
    """What the folder of every step is called."""
    return [f"{at}_{schemes[0].partition('_')[0]}" for at, schemes in enumerate(turns, 1)]


@dataclass(frozen=True)
class Course:
    """What all steps share.

    Attributes
    ----------
    source : Source
        The original.
    choose, test : Path
        LMDBs.
    making : Making
    resources : Resources
    """

    source: Source
    choose: Path
    test: Path
    making: Making
    resources: Resources


def in_turn(
    course: Course, turns: Sequence[tuple[str, ...]], options: SearchOptions, whole: int, folder: Path, steps: Steps,
    inputs: Mapping[str, Any], bar: Callable[[int, int, str], None],
) -> dict[str, Any]:  # fmt: skip
    """All steps; what was finished for the same inputs is not done again.

    Parameters
    ----------
    turns : sequence of tuple of str
        Schemes of each step.
    options : SearchOptions
        ``target_flops`` is a part of ``whole``.
    whole : int
        MACs of the layers that count, exact.
    folder : Path
        Gets a folder for every step.
    inputs : mapping
        What the results depend on.

    Returns
    -------
    dict
        ``macs`` by convention and ``parameters`` that all steps saved, in absolute numbers, ``seconds`` of processor time that they took, and
        ``correct`` by top_k and ``images`` of the last one's test.
    """
    assert options.target_flops is not None
    saved: dict[str, int] = dict.fromkeys((*CONVENTIONS, "parameters"), 0)
    source, seconds = course.source, 0.0
    last: dict[str, Any] = {}
    for at, (schemes, name) in enumerate(zip(turns, folders(turns)), 1):
        network = source.load(course.choose).network
        now = network_complexity(network, {})
        allowed = now.macs + saved["exact"] - (1.0 - options.target_flops ** (at / len(turns))) * whole
        part = allowed / now.macs
        if part <= 0:
            raise InfeasibleError(
                f"{name}, step {at} of {len(turns)}: {allowed / whole:.4f} of the MACs that count are to be left of all, and "
                f"{now.macs / whole:.4f} are there; raise the target"
            )
        wanted = replace(options, schemes=schemes, target_flops=min(1.0, part), count="all", first_layer=None)
        out = folder / name
        key = {**inputs, "options": plain(wanted), "making": repr(course.making), "before": last}
        make = partial(_step, course, source, wanted, out, network, name, bar)
        last = steps.run(f"{folder.name}-{name}", key, [out / "compressed.caffemodel"], make)
        for cost, value in last["saved"].items():
            saved[cost] += value
        seconds += last["seconds"]
        source = Source(out / "train_val.prototxt", out / "compressed.caffemodel")
    return {**last, "saved": saved, "seconds": seconds}


def _step(
    course: Course, source: Source, options: SearchOptions, out: Path, network: Network, name: str, bar: Callable[[int, int, str], None]
) -> dict[str, Any]:  # fmt: skip
    start = cpu_seconds()
    ended: list[float] = []

    def progress(what: str, done: int, all_: int) -> None:
        if "accuracy" in what and not ended:
            ended.append(cpu_seconds() - start)
        bar(done, all_, f"{name}: {what}")

    output = Output(course.test, top_k=(1, 5), force=True)
    made: Compressed = compress(
        source, course.choose, out, options, course.making, course.resources, output, None, progress
    )
    saved = {}
    for convention in CONVENTIONS:
        before, after = (network_complexity(network, f, convention) for f in ({}, made.plan.forms))
        saved[convention] = before.macs - after.macs
        saved["parameters"] = before.parameters - after.parameters
    found: dict[str, Any] = {"saved": saved, "seconds": ended[0] if ended else cpu_seconds() - start}
    if made.after is not None:
        found.update(images=made.after.images, correct={str(k): v for k, v in made.after.correct.items()})
    return found
