"""Every method of the paper's tables that there is, on the same network, images and MACs; what the search of each costs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

from enc_caffe import __version__
from enc_caffe.caffe_tools.finetune import RESULT
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.complexity import Complexity, network_complexity
from enc_caffe.errors import InfeasibleError, MetricsError, OutputError
from enc_caffe.experiments.in_turn import Course, folders, in_turn
from enc_caffe.experiments.inputs import count
from enc_caffe.experiments.retrained import Training, retrained
from enc_caffe.experiments.rows import RIVALS, Rival, chosen
from enc_caffe.experiments.run import command, is_stale, plain
from enc_caffe.experiments.steps import Steps
from enc_caffe.experiments.timed import Timed, cpu_seconds
from enc_caffe.files.jsonfile import read_json, write_json
from enc_caffe.files.output import claimed
from enc_caffe.form import ALL, CONVENTIONS, PAPER, Schemes
from enc_caffe.measuring.store import ResultStore, digest_of
from enc_caffe.measuring.subject import PlanEvaluator
from enc_caffe.metrics.files import write_metrics
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.compression import compress
from enc_caffe.pipeline.emission import emit
from enc_caffe.pipeline.making import Output
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.pipeline.reporting import EXPERIMENT, versions
from enc_caffe.pipeline.source import Resources, Source
from enc_caffe.pipeline.spectra import pca_metrics
from enc_caffe.plan import Plan, read_plan, write_plan
from enc_caffe.search.methods import EVALUATING
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.own import OWN, UNBUDGETED
from enc_caffe.workers.choice import Workers
from enc_caffe.workers.executor import Executor

#: Format of a row that another package left.
PEER = "enc-caffe-peer/1"


@dataclass(frozen=True)
class Arena:
    """What all rivals share: the network, images that choose and images that test, targets, and what is counted.

    ``settings`` are given for the methods that know them, such as ``episodes``; ``training`` is what every network gets in the end.
    """

    name: str
    network: str
    source: Source
    choose: Path
    test: Path
    targets: Sequence[float]
    count: str = "paper"
    first_layer: Optional[str] = "keep"
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Optional[Training] = None

    def options(self, rival: Rival, target: float) -> SearchOptions:
        """What a rival searches for."""
        known = {n: v for n, v in self.settings.items() if n not in OWN or rival.method in OWN[n].methods}
        first = None if rival.search.get("schemes", "paper") != "paper" else self.first_layer
        return SearchOptions(
            **{**known, "target_flops": target, "count": self.count, "first_layer": first, **rival.search}
        )


class Match:
    """One arena with its files, store and workers."""

    def __init__(
        self, arena: Arena, out: Path, store: ResultStore, workers: Workers, executor: Executor,
        bar: Callable[..., None], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.arena, self.out, self.store, self.workers, self.bar, self.say = arena, out, store, workers, bar, say
        self.steps = Steps(out / "steps", say)
        loaded = arena.source.load(arena.choose)
        everything = arena.source.load(arena.choose, "all", True)
        self.table = pca_metrics(loaded, arena.source.weights)
        self.modes = pca_metrics(everything, arena.source.weights)
        self._network = loaded.network
        self._what = ""
        self._images, self._tests = (
            images_of(loaded, arena.source.weights, p, executor, store) for p in (arena.choose, arena.test)
        )
        self._reporter = PlanEvaluator(self._tests, progress=self._progress)
        self._executor = executor
        self._decomposers: dict[Decomposition, Decomposer] = {}
        self._trained: dict[str, dict[str, Any]] = {}
        self._timed: dict[Optional[Decomposition], tuple[Timed, PlanEvaluator]] = {}
        self.inputs = {
            "weights": store.file_digest(arena.source.weights), "model": store.file_digest(arena.source.model),
            "choose": store.file_digest(arena.choose / "data.mdb"), "test": store.file_digest(arena.test / "data.mdb"),
            "version": __version__,
        }  # fmt: skip

    def _progress(self, plans: int, done: int, all_: int) -> None:
        self.bar(done, all_, self._what)

    def _evaluators(self, how: Optional[Decomposition]) -> tuple[Timed, PlanEvaluator]:
        """What evaluates plans on the images that choose, and on those that test, with weights made in one way."""
        if how not in self._timed:
            make: dict[str, Any] = {}
            if how is not None:
                decomposer = self._decomposers[how] = Decomposer(
                    self._images, how, progress=lambda what, done, all_: measuring(0, done, all_)
                )
                # On the images that test, it matters which images the weights are of.
                make = {"blobs_of": decomposer.blobs, "name": [*decomposer.name(), self.inputs["choose"]]}

            def measuring(plans: int, done: int, all_: int) -> None:
                timed.measuring()
                self._progress(plans, done, all_)

            name = "seconds.json" if how is None else f"seconds-{how.kind}.json"
            timed = Timed(PlanEvaluator(self._images, progress=measuring, **make), self.out / name)
            self._timed[how] = timed, PlanEvaluator(self._tests, progress=self._progress, **make)
        return self._timed[how]

    def original(self) -> dict[str, Any]:
        """The network whole."""
        self._what = "original"
        made = self.steps.run("original", self.inputs, [], lambda: {"score": _score(self._reporter, {})})
        tuned = self._tuned("original", Plan(self.arena.network, {}), PAPER)
        return {
            "method": "original", "label": "original", "macs": {"paper": 1.0, "exact": 1.0}, "parameters": 1.0, **made, **tuned
        }  # fmt: skip

    def play(self, rival: Rival, target: float) -> dict[str, Any]:
        """One rival at one target: its plan, what the search took, and the accuracy on the test images."""
        options = self.arena.options(rival, target)
        name = rival.key if rival.method in UNBUDGETED else f"{rival.key}-{target:g}"
        self._what, path = name, self.out / f"ranks-{name}.json"
        key = {**self.inputs, "options": plain(options), "making": repr(rival.making), "weights": repr(rival.weights)}
        if rival.turns:
            made = self._in_turn(rival, options, name, key)
            made.update(self._tuned(name, turns=rival.turns))
            return {"method": rival.key, "label": rival.label, "options": plain(options), "target": target, **made}
        make = self._searched if rival.making is None else self._compressed
        made = self.steps.run(name, key, [path], lambda: make(rival, options, name, path))
        if self.arena.training is not None:
            schemes = ALL if rival.method in UNBUDGETED else options.schemes
            made.update(self._tuned(name, None if rival.making else read_plan(path), schemes, rival.weights))
        return {
            "method": rival.key, "label": rival.label, "ranks": path.name, "options": plain(options), "target": target, **made
        }  # fmt: skip

    def _searched(self, rival: Rival, options: SearchOptions, name: str, path: Path) -> dict[str, Any]:
        timed, reporter = self._evaluators(rival.weights)
        table = self.modes if rival.method in UNBUDGETED else self._table(options.schemes)
        timed.begin()
        found = search_plan(table, options, timed if rival.method in EVALUATING else None)
        evaluations, seconds = timed.ended()
        plan = replace(found.plan, about=replace(found.plan.about, search_seconds=seconds))
        write_plan(path, plan)
        made = {"search": {"evaluations": evaluations, "seconds": seconds}, **self._costs(plan)}
        return {**made, "score": _score(reporter, plan.forms)}

    def _table(self, asked: Schemes) -> MetricsTable:
        """The curves of what layers may become; those of the paper's schemes are there."""
        if asked == PAPER:
            return self.table
        source = self.arena.source
        return pca_metrics(source.load(self.arena.choose, asked), source.weights)

    def _compressed(self, rival: Rival, options: SearchOptions, name: str, path: Path) -> dict[str, Any]:
        assert rival.making is not None
        start = cpu_seconds()
        ended: list[float] = []

        def progress(what: str, done: int, all_: int) -> None:
            if "accuracy" in what and not ended:
                ended.append(cpu_seconds() - start)
            self.bar(done, all_, f"{name}: {what}")

        result = compress(
            self.arena.source, self.arena.choose, self.out / name, options, rival.making,
            Resources(self.workers, self.store), Output(self.arena.test, top_k=(1, 5), force=True), None, progress,
        )  # fmt: skip
        write_plan(path, result.plan)
        refined = result.plan.about.refined
        search = {"evaluations": refined["evaluations"] if refined else 0, "seconds": ended[0] if ended else None}
        made = {"search": search, **self._costs(result.plan)}
        if result.after is not None:
            made["score"] = {
                "images": result.after.images,
                "correct": {str(k): v for k, v in result.after.correct.items()},
            }
        return made

    def _in_turn(self, rival: Rival, options: SearchOptions, name: str, key: Mapping[str, Any]) -> dict[str, Any]:
        assert rival.making is not None
        arena, whole = self.arena, self._counted()
        resources = Resources(self.workers, self.store)
        course = Course(arena.source, arena.choose, arena.test, rival.making, resources)
        made = in_turn(
            course, rival.turns, options, whole.macs, self.out / name, self.steps, key,
            lambda done, all_, what: self.bar(done, all_, f"{name}: {what}"),
        )  # fmt: skip
        saved = made["saved"]
        found = {
            "search": {"evaluations": 0, "seconds": made["seconds"]}, "macs": {c: 1.0 - saved[c] / whole.macs for c in CONVENTIONS},
            "parameters": 1.0 - saved["parameters"] / whole.parameters,
        }  # fmt: skip
        return {**found, **({"score": {n: made[n] for n in ("images", "correct")}} if "correct" in made else {})}

    def _tuned(
        self,
        name: str,
        plan: Optional[Plan] = None,
        schemes: Schemes = PAPER,
        how: Optional[Decomposition] = None,
        turns: Sequence[tuple[str, ...]] = (),
    ) -> dict[str, Any]:
        """The network after the training that all get; ``plan`` where there is no folder with it yet."""
        training, source = self.arena.training, self.arena.source
        if training is None:
            return {}
        folder = self.out / name
        if plan is not None:
            loaded = source.load(self.arena.choose, schemes, schemes == ALL)
            self._evaluators(how)
            blobs = {} if how is None else self._decomposers[how].blobs(plan.forms)
            emit(loaded, source.weights, plan, folder, force=True, test_lmdb=self.arena.test, blobs=blobs)
        elif turns:
            folder = folder / folders(turns)[-1]
        out = self.out / f"{name}-finetuned"
        key = {
            **self.inputs,
            **training.key(self.store),
            "network": self.store.file_digest(folder / "compressed.caffemodel"),
        }
        # Methods that find the same network have it trained once: by the same images in the same order it becomes the same.
        same = self._trained.get(digest_of(key))
        if same is not None:
            return {"finetuned": same}
        made = self.steps.run(f"finetune-{name}", key, [out / RESULT], lambda: retrained(
            training, folder, out, self.arena.test, self.store, self._executor,
            lambda step: self.bar(step.iteration, step.iterations, f"{name}: {step.words()}"), is_stale(out, digest_of(key)),
        ))  # fmt: skip
        self._trained[digest_of(key)] = made
        return {"finetuned": made}

    def _counted(self) -> Complexity:
        """What the layers cost whole that targets are parts of."""
        paper = [layer.name for layer, _ in self.table.by_layer()]
        return network_complexity(self._network, {}, counted=None if self.arena.count == "all" else paper)

    def _costs(self, plan: Plan) -> dict[str, Any]:
        # Parts of the layers that count, less what is saved in others too: one measure for all.
        whole, found = self._counted(), {}
        for convention in CONVENTIONS:
            before, after = (network_complexity(self._network, f, convention) for f in ({}, plan.forms))
            found[convention] = 1.0 - (before.macs - after.macs) / whole.macs
            parameters = 1.0 - (before.parameters - after.parameters) / whole.parameters
        return {"macs": found, "parameters": parameters}


def run(
    arena: Arena, names: Sequence[str], out: Path, store: ResultStore, workers: Workers, bar: Callable[..., None],
    say: Callable[[str], None],
) -> list[str]:  # fmt: skip
    """All rivals, or those that are named, at all targets; ``out`` becomes the folder of an experiment.

    What was finished is not done again; each network that was evaluated is in the store. Rows of earlier runs on the same
    files stay in the table.

    Returns
    -------
    list of str
        What could not be had, and why.

    Raises
    ------
    UsageError
        Naming the known rivals where a name is none, or for a target or setting that makes no sense.
    """
    wanted, missing = chosen(names)
    for rival in wanted:
        for target in arena.targets:
            # What makes no sense is said before anything is evaluated.
            arena.options(rival, target)
    with claimed(out), workers.executor() as executor:
        out.mkdir(parents=True, exist_ok=True)
        match = Match(arena, out, store, workers, executor, bar, say)
        write_metrics(out / "metrics.json", match.modes)
        networks, remarks = [match.original()], []
        before = _before(out, match.inputs)
        # What takes long comes last, so that the rest of the table is there before.
        for rival in sorted(wanted, key=_length):
            for target in arena.targets[:1] if rival.method in UNBUDGETED else arena.targets:
                try:
                    networks.append(match.play(rival, target))
                except (InfeasibleError, MetricsError) as exc:
                    remarks.append(f"{rival.label} at {target:g}: {str(exc).splitlines()[0]}")
                now = {_place(n) for n in networks}
                kept = [n for n in before if _place(n) not in now]
                more = [n for n in peers(out / "peers", match.inputs, remarks) if _place(n) not in now]
                kept = [n for n in kept if _place(n) not in {_place(m) for m in more}]
                _write(arena, out, networks + kept + more, remarks + missing, match.inputs)
    return remarks + missing


def _score(reporter: PlanEvaluator, forms: Mapping[str, Any]) -> dict[str, Any]:
    found = reporter.counts(forms)
    return {"images": found.images, "correct": {"1": found.correct, "5": found.correct_5}}


def peers(folder: Path, inputs: Mapping[str, Any], remarks: list[str]) -> list[dict[str, Any]]:
    """Rows that other packages left (``scripts/peers``), where they are of the same files; of others a remark says so."""
    found = []
    for path in sorted(folder.glob("*.json")):
        row = read_json(path, PEER, OutputError)
        if row.get("files") == _files(inputs):
            found.append({k: v for k, v in row.items() if k not in ("format", "files")})
            continue
        line = f"{path.name}: is of other files than this table; run scripts/peers again"
        if line not in remarks:
            remarks.append(line)
    return found


def _place(entry: Mapping[str, Any]) -> tuple[str, Any]:
    return entry["method"], None if entry["method"] in UNBUDGETED else entry.get("target")


def _before(out: Path, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a table that stands there already, where it is of the same files."""
    try:
        known = read_json(out / "experiment.json", EXPERIMENT, OutputError)
        return list(known["networks"]) if known["files"] == _files(inputs) else []
    except (OutputError, KeyError):
        return []


def _files(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in inputs.items() if k != "version"}


def _length(rival: Rival) -> tuple[bool, ...]:
    return (
        rival.making is not None and rival.making.refine != 0,
        rival.method in ("adc", "amc"),
        rival.making is not None,
        rival.method in EVALUATING,
    )


def _write(
    arena: Arena, out: Path, networks: Sequence[dict[str, Any]], remarks: Sequence[str], inputs: Mapping[str, Any]
) -> None:
    order = {r.key: at for at, r in enumerate(RIVALS)}
    images = networks[0]["score"]["images"]
    write_json(out / "experiment.json", {
        "format": EXPERIMENT, "name": arena.name, "title": f"{arena.network}: all methods beside each other",
        "network": arena.network, "images": f"Accuracy on {images:,} test images; all was chosen on {count(arena.choose):,} others",
        "networks": sorted(networks, key=lambda n: (-n.get("target", 2.0), order.get(n["method"], -1))),
        "remarks": list(remarks), "commands": [command()], "versions": versions(),
        "files": _files(inputs),
    })  # fmt: skip
