"""An experiment with images: metrics, search, emission, accuracy, fine-tuning; every step once."""

from __future__ import annotations

import hashlib
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

from enc_caffe import __version__, pipeline
from enc_caffe.caffe_io.describe import batch_size, data_layers
from enc_caffe.caffe_io.emit import NONE, Blobs
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_tools.finetune import RESULT, finetune
from enc_caffe.caffe_tools.training import Step
from enc_caffe.experiments.inputs import Choices, Inputs, gather
from enc_caffe.experiments.retrained import trained_model
from enc_caffe.experiments.settings import Experiment
from enc_caffe.experiments.steps import Steps
from enc_caffe.files.jsonfile import write_json
from enc_caffe.files.output import atomic_file, claimed
from enc_caffe.form import ALL
from enc_caffe.measuring.store import ResultStore, digest_of
from enc_caffe.measuring.subject import PlanEvaluator
from enc_caffe.metrics.files import read_metrics, write_metrics
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.measurement import images_of, measured_metrics
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.pipeline.reporting import EXPERIMENT, sha256, versions
from enc_caffe.plan import Plan, read_plan, write_plan
from enc_caffe.progress import Progress, by_name
from enc_caffe.search.methods import EVALUATING, most_evaluations
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.own import UNBUDGETED
from enc_caffe.workers.executor import Executor

Bar = Callable[..., None]


@dataclass
class Laboratory:
    """What all steps of one experiment share."""

    x: Experiment
    choices: Choices
    out: Path
    steps: Steps
    inputs: Inputs
    executor: Executor
    store: ResultStore
    bar: Bar

    def step(self, what: str) -> Progress:
        """Progress of a stage."""
        return lambda done, all_: self.bar(done, all_, what)

    def digest(self, path: Path) -> str:
        """Content hash of a file, remembered by the store."""
        return self.store.file_digest(path)


def run(x: Experiment, choices: Choices, out: Path, store: ResultStore, bar: Bar, say: Callable[[str], None]) -> dict[str, Any]:  # fmt: skip
    """All steps; the result is also written as ``experiment.json``."""
    with claimed(out):
        out.mkdir(parents=True, exist_ok=True)
        return _run(x, choices, out, store, bar, say)


def _run(x: Experiment, choices: Choices, out: Path, store: ResultStore, bar: Bar, say: Callable[[str], None]) -> dict[str, Any]:  # fmt: skip
    steps = Steps(out / "steps", say)
    inputs = gather(x, choices, out, steps, bar)
    with choices.workers.executor() as executor:
        lab = Laboratory(x, choices, out, steps, inputs, executor, store, bar)
        table = metrics(lab)
        networks = [original(lab)]
        for method in dict.fromkeys(("uniform", *(choices.methods or (x.method,)))):
            plan = search(lab, table, method)
            for placement in x.placements:
                networks.append(network(lab, plan, method, placement))
    data = {
        "format": EXPERIMENT, "name": x.name, "title": f"{x.network}: {x.name}", "network": x.network,
        "images": inputs.words[0].upper() + inputs.words[1:], "networks": networks,
        "remarks": remarks(x, choices), "commands": [command()], "versions": versions(),
        "files": {"weights": lab.digest(inputs.weights), "metrics.json": sha256(out / "metrics.json")},
    }  # fmt: skip
    write_json(out / "experiment.json", data)
    return data


def command() -> str:
    """The command line that is running."""
    return " ".join(["python", *(a if a and " " not in a else repr(a) for a in sys.argv)])


def remarks(x: Experiment, choices: Choices) -> list[str]:
    """What the numbers do not say."""
    found = []
    if "published" in x.placements:
        found.append("'published' puts both strides on the first layer of a pair, as the paper's networks have them; 'exact' keeps the function.")  # fmt: skip
    if choices.finetune and "epochs" in x.finetune:
        found.append(f"Fine-tuning: {x.finetune['epochs']:g} epochs, not the paper's whole schedule.")
    return found


def metrics(lab: Laboratory) -> MetricsTable:
    """Layer metrics; measured where the experiment's metric needs images."""
    x, path = lab.x, lab.out / "metrics.json"
    needs_images = x.search.get("metric", "pca") != "pca"
    key: dict[str, Any] = {
        "model": lab.digest(x.model),
        "weights": lab.digest(lab.inputs.weights),
        "version": __version__,
    }
    key.update(fully_connected=x.fully_connected, measured=needs_images, partial=str(lab.inputs.partial))

    def make() -> dict[str, Any]:
        if lab.choices.metrics is not None:
            write_metrics(path, read_metrics(lab.choices.metrics))
            return {}
        loaded = pipeline.load(x.model, lab.inputs.test, None, x.fully_connected)
        layers = by_name(lab.step("singular values"), len(loaded.policy.schemes))
        table = pipeline.pca_metrics(loaded, lab.inputs.weights, progress=layers)
        if needs_images:
            images = images_of(loaded, lab.inputs.weights, lab.inputs.partial, lab.executor, lab.store)
            table = measured_metrics(images, table, progress=lab.step("metrics"))
        write_metrics(path, table)
        return {}

    if lab.choices.metrics is not None:
        key["given"] = lab.digest(lab.choices.metrics)
    lab.steps.run("metrics", key, [path], make)
    return read_metrics(path)


def search(lab: Laboratory, table: MetricsTable, method: str) -> Plan:
    """Ranks by one method; those that evaluate do so on the partial images."""
    options, path = lab.x.options(method), lab.out / f"ranks-{method}.json"

    def make() -> dict[str, Any]:
        accuracy = None
        if method in EVALUATING:
            loaded = pipeline.load(lab.x.model, lab.inputs.partial, None, lab.x.fully_connected)
            images = images_of(loaded, lab.inputs.weights, lab.inputs.partial, lab.executor, lab.store)
            number = most_evaluations(options, len(table.layers))
            accuracy = PlanEvaluator(
                images, progress=lambda plans, done, all_: lab.bar(plans * all_ + done, max(number, plans + 1) * all_, "plans"),
                decomposing=lab.step("decomposed layers"),
            )  # fmt: skip
        known = table
        if method in UNBUDGETED:
            # Its rule looks at other schemes, and at fully connected layers, by the caffemodel alone.
            everything = pipeline.load(lab.x.model, lab.inputs.test, None, True, schemes=ALL)
            known = pipeline.pca_metrics(everything, lab.inputs.weights)
        write_plan(path, search_plan(known, options, accuracy).plan)
        return {}

    key = {"metrics": sha256(lab.out / "metrics.json"), "options": plain(options), "version": __version__}
    lab.steps.run(f"search-{method}", key, [path], make)
    return read_plan(path)


def plain(options: SearchOptions) -> dict[str, Any]:
    """Options as JSON data."""
    return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in asdict(options).items()}


def score(lab: Laboratory, name: str, model: Path, weights: Path) -> dict[str, Any]:
    """Right images of a network on the test images; chunks that were counted stay in the store."""

    def make() -> dict[str, Any]:
        loaded = pipeline.load(model, lab.inputs.test, None, True)
        images = images_of(loaded, weights, lab.inputs.test, lab.executor, lab.store)
        counts = PlanEvaluator(images, progress=lambda plans, done, all_: lab.bar(done, all_, name)).counts({})
        found = {1: counts.correct, 5: counts.correct_5}
        return {"images": counts.images, "correct": {str(k): found[k] for k in lab.x.top_k}}

    key = {
        "model": lab.digest(model),
        "weights": lab.digest(weights),
        "test": str(lab.inputs.test),
        "top_k": lab.x.top_k,
    }
    return lab.steps.run(f"score-{name}", key, [], make)


def original(lab: Laboratory) -> dict[str, Any]:
    """The network before compression; fine-tuned the same way as the others where these are, for a fair comparison."""
    found = {
        "method": "original", "label": "original", "macs": {"paper": 1.0, "exact": 1.0}, "parameters": 1.0,
        "score": score(lab, "original", lab.x.model, lab.inputs.weights),
    }  # fmt: skip
    if lab.choices.finetune:
        whole = Plan(lab.x.network, {})
        found["finetuned"] = tuned(lab, "original", written(lab, whole, "original", "exact")[0])
    return found


def network(lab: Laboratory, plan: Plan, method: str, placement: str) -> dict[str, Any]:
    """One compressed network: files, costs, accuracy, and fine-tuned where that is wanted."""
    x, name = lab.x, f"{method}-{placement}"
    folder, costs = written(lab, plan, name, placement)
    found = {
        "method": method, "placement": placement if len(x.placements) > 1 else None, "ranks": f"ranks-{method}.json",
        "folder": name, "options": plain(x.options(method)), **costs,
        "score": score(lab, name, folder / "train_val.prototxt", folder / "compressed.caffemodel"),
    }  # fmt: skip
    if lab.choices.finetune:
        found["finetuned"] = tuned(lab, name, folder)
    return found


def written(lab: Laboratory, plan: Plan, name: str, placement: str, blobs: Blobs = NONE) -> tuple[Path, dict[str, Any]]:
    """Folder of a plan's network, with the experiment's solver and images, and what it costs."""
    x, folder = lab.x, lab.out / name

    def make() -> dict[str, Any]:
        loaded = pipeline.load(x.model, lab.inputs.test, None, x.fully_connected)
        emitted = pipeline.emit(
            loaded, lab.inputs.weights, plan, folder, placement, force=True, solver=x.solver,
            train_lmdb=lab.inputs.train, test_lmdb=lab.inputs.test, blobs=blobs,
            progress=by_name(lab.step(f"{name}: decomposed layers"), len(plan.forms)),
        )  # fmt: skip
        return {
            "macs": {c: emitted.ratio(c, "decomposable") for c in ("paper", "exact")},
            "parameters": emitted.parameter_ratio("decomposable"),
        }

    key = {"forms": {n: str(f) for n, f in plan.forms.items()}, "model": lab.digest(x.model), "solver": lab.digest(x.solver),
           "weights": lab.digest(lab.inputs.weights), "train": str(lab.inputs.train), "version": __version__,
           "blobs": {layer: [hashlib.sha256(b.tobytes()).hexdigest() for b in parts] for layer, parts in sorted(blobs.items())}}  # fmt: skip
    files = [folder / "train_val.prototxt", folder / "compressed.caffemodel"]
    return folder, lab.steps.run(f"network-{name}", key, files, make)


def tuned(lab: Laboratory, name: str, folder: Path) -> dict[str, Any]:
    """Fine-tuning on all training images, and the accuracy after it."""
    x, out = lab.x, lab.out / f"{name}-finetuned"
    overrides = schedule(x, lab.inputs, folder)
    model = trained_model(folder, x.finetune.get("statistics"))
    key = {"weights": lab.digest(folder / "compressed.caffemodel"), "model": lab.digest(model), "overrides": overrides}

    def make() -> dict[str, Any]:
        result = finetune(
            folder / "solver.prototxt", folder / "compressed.caffemodel", out, model, overrides=overrides, gpu=lab.choices.gpu,
            repeatable=True, force=is_stale(out, digest_of(key)),
            progress=lambda step: _show(lab, name, step),
        )  # fmt: skip
        return {"loss": result.loss, "caffe_test": result.test, "images": result.images}

    made = lab.steps.run(f"finetune-{name}", key, [out / RESULT], make)
    epochs = x.finetune.get("epochs")
    return {"folder": out.name, "epochs": epochs, **made, "score": score(lab, f"{name}-finetuned", folder / "train_val.prototxt", out / RESULT)}  # fmt: skip


def is_stale(out: Path, key: str) -> bool:
    """Whether the folder holds (a part of) a fine-tuning of other inputs; notes these ones."""
    note = out / "inputs.sha256"
    stale = out.exists() and (not note.is_file() or note.read_text() != key or (out / RESULT).exists())
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(note) as handle:
        handle.write(key.encode())
    return stale


def _show(lab: Laboratory, name: str, step: Step) -> None:
    lab.bar(step.iteration, step.iterations, f"{name} {step.words()}")


def schedule(x: Experiment, inputs: Inputs, folder: Path) -> dict[str, Any]:
    """Fields of the solver that differ from the paper's whole schedule."""
    layers = data_layers(read_net(folder / "train_val.prototxt"), "TRAIN")
    epoch = math.ceil(inputs.train_images / batch_size(layers[0]))
    values: dict[str, Any] = {"random_seed": 1, "test_initialization": False}
    if "epochs" in x.finetune:
        total = max(1, math.ceil(x.finetune["epochs"] * inputs.train_images / batch_size(layers[0])))
        every = min(epoch, total)
        values.update(max_iter=total, snapshot=every, test_interval=every, display=max(1, total // 20))
    if "base_lr" in x.finetune:
        values["base_lr"] = x.finetune["base_lr"]
    return values
