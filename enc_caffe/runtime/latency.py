"""How long a layer takes in Caffe: whole, and as its pair at several ranks. Each is a net of its own in a worker."""

from __future__ import annotations

import platform
import time
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import replace_layers
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.decomposition import scheme_for
from enc_caffe.metrics.latency import LatencyTable, LayerLatency
from enc_caffe.metrics.sampling import lowest_rank
from enc_caffe.network import Layer
from enc_caffe.runtime.executor import CaffeExecutor

#: Ranks a layer, least seconds a net, and least passes: the least of several passes is what other work disturbs least.
RANKS, SECONDS, PASSES = 8, 0.05, 5


def time_net(prototxt: str, passes: int, seconds: float) -> int:
    """Least nanoseconds of a forward pass (in a worker)."""
    from enc_caffe.runtime.engine import load_net

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


def sampled_ranks(max_rank: int, number: int = RANKS) -> list[int]:
    """Ranks to measure at, evenly from a tenth of r_max to r_max."""
    return sorted({int(round(r)) for r in np.linspace(lowest_rank(max_rank), max_rank, number)})


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
    layers: Sequence[Layer],
    schemes: Mapping[str, str],
    max_ranks: Mapping[str, int],
    network: str,
    threads: int = 1,
    batch: int = 1,
    ranks: int = RANKS,
    placement: str = "exact",
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> LatencyTable:
    """Time every layer whole and at several ranks, one after the other; layers of equal geometry are timed once.

    Parameters
    ----------
    net : NetParameter
    layers : sequence of Layer
        The decomposable layers.
    schemes, max_ranks : mapping of layer
    threads : int
        BLAS threads.
    batch : int
        Images of a pass.

    Raises
    ------
    CaffeError
        With Caffe's own last line where it stopped.
    """
    keys = {layer.name: _geometry(layer, schemes[layer.name]) for layer in layers}
    first = {key: layer for layer in reversed(layers) for key in [keys[layer.name]]}
    points = {key: sampled_ranks(max_ranks[layer.name], ranks) for key, layer in first.items()}
    total, done = sum(len(p) + 1 for p in points.values()), 0
    known: dict[Any, list[int]] = {}
    with CaffeExecutor(1, threads, advice="; start the command again") as executor:
        for key, layer in first.items():
            known[key] = []
            for text in _prototxts(layer_net(net, layer, batch), layer, schemes[layer.name], points[key], placement):
                known[key].append(executor.result(executor.submit(time_net, text, PASSES, SECONDS)))
                done += 1
                progress(done, total)
    entries = tuple(
        LayerLatency(
            x.name,
            max_ranks[x.name],
            known[keys[x.name]][0],
            tuple(points[keys[x.name]]),
            tuple(known[keys[x.name]][1:]),
        )
        for x in layers
    )
    about = {"machine": platform.processor() or platform.machine(), "threads": threads, "batch": batch}
    return LatencyTable(network, entries, about)


def _geometry(layer: Layer, scheme: str) -> tuple[Any, ...]:
    return (layer.type, scheme, layer.convolution, layer.inner_product, layer.bottom_shapes[0][1:])


def _prototxts(net: Any, layer: Layer, scheme: str, ranks: Sequence[int], placement: str) -> Iterator[str]:
    network = describe(net, None, f"layer '{layer.name}'")
    yield to_text(net)
    for rank in ranks:
        assert rank <= scheme_for(scheme).max_rank(network[layer.name])
        yield to_text(replace_layers(net, network, {layer.name: rank}, {layer.name: scheme}, placement))
