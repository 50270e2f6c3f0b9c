"""Figure 7: time of compressed networks over the original's, by stock ``caffe time``, against their MACs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from enc_caffe import pipeline
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import replace_layers
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.caffe_tools.programs import caffe_time
from enc_caffe.complexity import layer_macs
from enc_caffe.decomposition import scheme_for
from enc_caffe.experiments.fetch import RESOURCES, fetch
from enc_caffe.experiments.run import command
from enc_caffe.experiments.steps import Steps
from enc_caffe.files.jsonfile import write_json
from enc_caffe.files.output import atomic_file
from enc_caffe.metrics.files import read_metrics
from enc_caffe.metrics.sampling import energy_samples
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.network import Network
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.pipeline.reporting import TIMES, sha256, versions
from enc_caffe.plan import Plan
from enc_caffe.search.options import SearchOptions
from enc_caffe.terminal.tables import print_table

TARGETS = (0.3, 0.5, 0.7)
MetricsOf = Callable[[str], Optional[Path]]


@dataclass(frozen=True)
class Subject:
    """A network to time: its folder, how often, and how its ranks are searched."""

    network: str
    folder: str
    rounds: int
    first_layer: str
    metric: str


SUBJECTS = (
    Subject("ResNet-56", "resnet56", 30, "keep", "pca"),
    Subject("AlexNet", "alexnet", 20, "search", "measured"),
    Subject("VGG-16", "vgg16", 10, "half", "combined"),
)


def run(root: Path, out: Path, say: Callable[[str], None], metrics_of: MetricsOf, subjects: tuple[Subject, ...] = SUBJECTS) -> dict[str, Any]:  # fmt: skip
    """Time all networks in turns, print the table, and write ``times.json``.

    Every round times one pass of the original and of each compressed network, so that what else the machine does falls on
    all of them; of each layer the least time of the rounds counts, which other work disturbs least.
    """
    say(
        f"fig7: downloads {RESOURCES['res56.caffemodel'].what} where it is not here; no images; {sum(4 * s.rounds for s in subjects)} runs of caffe time"
    )
    steps, times, remarks = Steps(out / "steps", say), [], []
    for subject in subjects:
        networks, how = prepare(root, out, subject, metrics_of)
        remarks.append(f"{subject.network}: ranks by {how}")
        times += measure(out, subject, networks, steps)
    data = {
        "format": TIMES, "title": "Figure 7: time over MACs", "times": times, "versions": versions(), "commands": [command()],
        "remarks": [*remarks, "Weights are random (caffe time reads none); one image, one BLAS thread; forward pass of the TEST phase."],
    }  # fmt: skip
    write_json(out / "times.json", data)
    rows = [
        [t["network"], f"{t['macs']:.4f}", f"{t['convolutions']:.3f}", f"{t['convolutions'] / t['macs']:.2f}", f"{t['whole']:.3f}",
         f"{t['convolutions_ms']:.2f}", f"{t['whole_ms']:.2f}"]
        for t in times
    ]  # fmt: skip
    print_table(
        "Figure 7: time of a forward pass over the original's, one image, one BLAS thread, stock caffe time",
        ["network", "MACs, exact", "convolutions", "time / MACs", "whole", "convolutions, ms", "whole, ms"], rows,
    )  # fmt: skip
    for line in data["remarks"]:
        print(line)
    return data


def prepare(
    root: Path, out: Path, subject: Subject, metrics_of: MetricsOf
) -> tuple[list[tuple[str, Path, Network]], str]:
    """Deploy prototxts of the original and of every target, with their descriptions; and how the ranks were found."""
    loaded = pipeline.load(root / "prototxt" / subject.folder / "deploy.prototxt")
    table, how = _metrics(loaded, subject, metrics_of)
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for target in (1.0, *TARGETS):
        plan = Plan(subject.network, {})
        if target < 1:
            method = "model" if how.startswith("ENC-Model") else "uniform"
            metric = subject.metric if how.endswith("file") else "pca"
            plan = search_plan(
                table, SearchOptions(method, metric, target, first_layer=subject.first_layer, count="paper")
            ).plan
        net = deploy_net(replace_layers(loaded.net, loaded.network, plan.forms), loaded.network)
        for layer in net.layer:
            if layer.type == "Input":
                layer.input_param.shape[0].dim[0] = 1
        name = f"{subject.folder}-{round(100 * target)}"
        path = out / f"{name}.prototxt"
        with atomic_file(path) as handle:
            handle.write(to_text(net).encode())
        found.append((name, path, describe(net, None, str(path))))
    return found, how


def _metrics(loaded: pipeline.LoadedNetwork, subject: Subject, metrics_of: MetricsOf) -> tuple[MetricsTable, str]:
    if subject.network == "ResNet-56":
        return pipeline.pca_metrics(loaded, fetch(RESOURCES["res56.caffemodel"])), "ENC-Model, A_p of the caffemodel"
    path = metrics_of(subject.network)
    if path is not None:
        return read_metrics(path), "ENC-Model from the metrics file"
    # Flat spectra, as random weights have: no layer is preferred, so every layer gets the same part of its r_max.
    layers = []
    for name, (scheme,) in loaded.policy.schemes.items():
        layer = loaded.network[name]
        rank = scheme_for(scheme).max_rank(layer)
        spectra = tuple(np.ones(rank) for _ in range(layer.groups))
        layers.append(LayerMetrics(layer, scheme, rank, spectra, tuple(energy_samples(spectra, (rank, rank), rank))))
    filled = tuple(LayerMetrics(m.layer, m.scheme, m.max_rank, m.singular_values, m.sampled_ranks, (None,) * len(m.sampled_ranks), m.max_rank) for m in layers)  # fmt: skip
    return MetricsTable(subject.network, "flat spectra", filled), "uniform parts of r_max (no metrics at hand)"


def measure(
    out: Path, subject: Subject, networks: list[tuple[str, Path, Network]], steps: Steps
) -> list[dict[str, Any]]:
    """Ratios of every compressed network; each round is a step of its own."""
    least: dict[str, dict[str, float]] = {}

    def make() -> dict[str, Any]:
        return {name: caffe_time(path, 1, out / "caffe_time.log", threads=1).layers_ms for name, path, _ in networks}

    key = {name: sha256(path) for name, path, _ in networks}
    for number in range(subject.rounds):
        timed = steps.run(f"time-{subject.folder}-{number + 1}-of-{subject.rounds}", key, [], make)
        for name, layers in timed.items():
            best = least.setdefault(name, dict(layers))
            least[name] = {layer: min(ms, best[layer]) for layer, ms in layers.items()}
    sums = {}
    for name, _, network in networks:
        conv = {layer.name for layer in network.layers if layer.convolution is not None}
        macs = sum(layer_macs(layer) for layer in network.layers if layer.convolution is not None)
        sums[name] = (macs, sum(ms for n, ms in least[name].items() if n in conv), sum(least[name].values()))
    original = sums[networks[0][0]]
    return [
        {
            "network": subject.network, "macs": sums[name][0] / original[0], "convolutions": sums[name][1] / original[1],
            "whole": sums[name][2] / original[2], "convolutions_ms": sums[name][1], "whole_ms": sums[name][2],
            "original_convolutions_ms": original[1], "original_whole_ms": original[2],
        }
        for name, _, _ in networks[1:]
    ]  # fmt: skip
