"""How long a layer takes in Caffe: whole, and as the chain of several forms. Each is a net of its own in a worker."""

from __future__ import annotations

import platform
import time
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import replace_layers
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.decomposition import form_cost, scheme_for
from enc_caffe.form import Form
from enc_caffe.metrics.latency import LatencyTable, LayerLatency
from enc_caffe.metrics.sampling import lowest_rank
from enc_caffe.network import Layer, Network
from enc_caffe.workers.executor import CaffeExecutor

#: Ranks a layer, least seconds a net, and least passes: the least of several passes is what other work disturbs least.
RANKS, SECONDS, PASSES = 8, 0.05, 5


def time_net(prototxt: str, passes: int, seconds: float) -> int:
    """Least nanoseconds of a forward pass (in a worker)."""
    from enc_caffe.workers.pycaffe import load_net

    net = load_net(prototxt, None)
    rng = np.random.default_rng(0)
    for name in net.inputs:
        net.blobs[name].data[...] = rng.standard_normal(net.blobs[name].data.shape)
    net.forward()
    best, spent, done = float("inf"), 0.0, 0
    while done < passes or spent < seconds:
        start = time.perf_counter_ns()
        net.forward()
        took = time.perf_counter_ns() - start
        best, spent, done = min(best, took), spent + took / 1e9, done + 1
    return max(1, int(best))


def sampled_forms(layer: Layer, scheme: str, number: int = RANKS) -> list[Form]:
    """Forms to measure at, evenly from a tenth of r_max to r_max; of forms of several ranks, evenly along their ladder."""
    rules = scheme_for(scheme)
    forms = rules.forms(layer, ())
    places = np.linspace(lowest_rank(len(forms)), len(forms), number)
    return [forms[p - 1] for p in sorted({int(round(p)) for p in places})]


def _entry(layer: Layer, scheme: str, times: Sequence[int], forms: Sequence[Form]) -> LayerLatency:
    if scheme_for(scheme).matrix_shape(layer) is not None:
        highest = scheme_for(scheme).max_rank(layer)
        return LayerLatency(
            layer.name, highest, times[0], tuple(f.ranks[0] for f in forms), tuple(times[1:]), scheme
        )  # fmt: skip
    costs = tuple(form_cost(layer, f)[0] for f in forms)
    return LayerLatency(layer.name, 0, times[0], costs, tuple(times[1:]), scheme, tuple(forms))


def layer_net(net: Any, layer: Layer, batch: int) -> Any:
    """A NetParameter of the layer alone behind an Input layer."""
    result = type(net)()
    result.name = f"latency-{layer.name}"
    shape = (batch, *layer.bottom_shapes[0][1:])
    source = result.layer.add()
    source.name, source.type = "data", "Input"
    source.top.append("data")
    source.input_param.shape.add().dim.extend(shape)
    original = result.layer.add()
    original.CopyFrom(next(p for p in net.layer if p.name == layer.name))
    del (
        original.bottom[:],
        original.top[:],
        original.param[:],
        original.include[:],
        original.exclude[:],
        original.blobs[:],
    )
    original.bottom.append("data")
    original.top.append("out")
    return result


def measure_latency(
    net: Any,
    network: Network,
    schemes: Mapping[str, Sequence[str]],
    threads: int = 1,
    batch: int = 1,
    ranks: int = RANKS,
    placement: str = "exact",
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> LatencyTable:
    """Time every layer whole and in several forms, one after the other; layers of equal geometry are timed once.

    Parameters
    ----------
    net : NetParameter
    network : Network
    schemes : mapping of layer to names of schemes
        What is timed.
    threads : int
        BLAS threads.
    batch : int
        Images of a pass.
    ranks : int
        Forms of each scheme.

    Raises
    ------
    CaffeError
        With Caffe's own last line where it stopped.
    """
    wanted = [(network[name], scheme) for name, own in schemes.items() for scheme in own]
    keys = {(layer.name, scheme): _geometry(layer, scheme) for layer, scheme in wanted}
    first = {keys[layer.name, scheme]: (layer, scheme) for layer, scheme in reversed(wanted)}
    points = {key: sampled_forms(layer, scheme, ranks) for key, (layer, scheme) in first.items()}
    total, done = sum(len(p) + 1 for p in points.values()), 0
    known: dict[Any, list[int]] = {}
    with CaffeExecutor(1, threads, advice="; start the command again") as executor:
        for key, (layer, _) in first.items():
            known[key] = []
            for text in _prototxts(layer_net(net, layer, batch), layer, points[key], placement):
                known[key].append(executor.result(executor.submit(time_net, text, PASSES, SECONDS)))
                done += 1
                progress(done, total)
    entries = tuple(_entry(layer, scheme, known[keys[layer.name, scheme]], points[keys[layer.name, scheme]]) for layer, scheme in wanted)  # fmt: skip
    about = {"machine": platform.processor() or platform.machine(), "threads": threads, "batch": batch}
    return LatencyTable(network.name, entries, about)


def _geometry(layer: Layer, scheme: str) -> tuple[Any, ...]:
    return (layer.type, scheme, layer.convolution, layer.inner_product, layer.bottom_shapes[0][1:])


def _prototxts(net: Any, layer: Layer, forms: Sequence[Form], placement: str) -> Iterator[str]:
    network = describe(net, None, f"layer '{layer.name}'")
    yield to_text(net)
    for form in forms:
        yield to_text(replace_layers(net, network, {layer.name: form}, placement))
