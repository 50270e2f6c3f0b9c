"""BatchNorm, Scale, Eltwise and max pooling in loops of their own, held against Caffe's own code in another process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from enc_caffe.workers.blas import CONV, OWN_CODE
from enc_caffe.workers.executor import CaffeExecutor
from enc_caffe.workers.pycaffe import load_net
from tests.workers.test_kernels import NANOSECONDS, needs_onednn

pytestmark = [pytest.mark.caffe, needs_onednn]

#: Of the largest number of an array, or of the largest sum of the magnitudes that one of its numbers is added up from.
BOUND = 1e-5


@dataclass(frozen=True)
class Passes:
    """What one layer computes: its output, the gradient of its input, and its blobs with their gradients."""

    x: np.ndarray
    out_diff: np.ndarray
    out: np.ndarray
    diff: np.ndarray
    blobs: tuple[np.ndarray, ...]
    blob_diffs: tuple[np.ndarray, ...]


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[CaffeExecutor, CaffeExecutor]]:
    """A process that computes by the loops, and one by Caffe's own code."""
    with pytest.MonkeyPatch.context() as patch, CaffeExecutor(1) as fast:
        assert fast.arithmetic.layers.endswith("+loops4")
        patch.setenv(CONV, OWN_CODE)
        with CaffeExecutor(1) as own:
            assert own.arithmetic.layers == OWN_CODE
            yield fast, own


def net_of(kind: str, shape: tuple[int, ...], parameters: str, in_place: bool) -> str:
    """A net of one layer behind one that copies its input (twice for Eltwise); in place, its output is that copy's blob."""
    dims = " ".join(f"dim: {d}" for d in shape)
    bottom = "out" if in_place else "copy"
    text = (
        f'force_backward: true layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'
        f'layer {{ name: "copy" type: "Power" bottom: "data" top: "{bottom}" }}\n'
    )
    second = ' bottom: "data"' if kind == "Eltwise" else ""
    return text + f'layer {{ name: "it" type: "{kind}" bottom: "{bottom}"{second} top: "out" {parameters} }}\n'


def both_ways(text: str, shape: tuple[int, ...], seed: int, offset: float) -> Passes:
    """A forward and a backward pass with random numbers (in a worker); gradients of blobs begin at 1, since Caffe adds to them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32) + np.float32(offset)
    out_diff = rng.standard_normal(shape).astype(np.float32)
    net = load_net(text, None)
    blobs = list(net.params.get("it", []))
    for blob in blobs:
        # The variances of BatchNorm among them.
        blob.data[...], blob.diff[...] = np.abs(rng.standard_normal(blob.data.shape)) + 0.1, 1
    net.blobs["data"].data[...] = x
    net.forward()
    out = net.blobs["out"].data.copy()
    net.blobs["out"].diff[...] = out_diff
    net.backward()
    return Passes(
        x, out_diff, out, net.blobs["data"].diff.copy(), tuple(b.data.copy() for b in blobs), tuple(b.diff.copy() for b in blobs)
    )  # fmt: skip


def of_both(workers: tuple[CaffeExecutor, CaffeExecutor], *task: object) -> tuple[Passes, Passes]:
    """The loops' passes, and those of Caffe's own code."""
    fast, own = (w.submit(both_ways, *task) for w in workers)
    return workers[0].result(fast), workers[1].result(own)


def close(a: np.ndarray, b: np.ndarray, size: float = 0.0) -> bool:
    """Whether no number differs by more than the bound times the largest one, or ``size``."""
    return bool(np.isfinite(a).all() and np.abs(a - b).max() <= BOUND * max(size, float(np.abs(b).max())))


SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 9)).flatmap(
    lambda first: st.lists(st.integers(1, 19), max_size=3).map(lambda rest: (*first, *rest))
)
LAYERS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@LAYERS
@given(shape=SHAPES, in_place=st.booleans(), seed=st.integers(0, 2**32 - 1), offset=st.floats(-5, 5))
def test_batch_norm_by_the_batch(
    workers: tuple[CaffeExecutor, CaffeExecutor], shape: tuple[int, ...], in_place: bool, seed: int, offset: float
) -> None:
    # Of two numbers only the sign is left; gradients are then what rounding left over.
    assume(np.prod(shape) // shape[1] >= 8)
    text = net_of("BatchNorm", shape, "batch_norm_param { use_global_stats: false }", in_place)
    found, own = of_both(workers, text, shape, seed, offset)
    # Offsets cost digits in both.
    assert close(found.out, own.out, 1 + abs(offset)) and close(found.diff, own.diff, 1 + abs(offset))
    assert all(close(a, b) for a, b in zip(found.blobs, own.blobs)) and len(own.blobs) == 3


@LAYERS
@given(shape=SHAPES, in_place=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_batch_norm_by_what_is_stored(
    workers: tuple[CaffeExecutor, CaffeExecutor], shape: tuple[int, ...], in_place: bool, seed: int
) -> None:
    found, own = of_both(workers, net_of("BatchNorm", shape, "", in_place), shape, seed, 1.0)
    assert np.array_equal(found.out, own.out) and np.array_equal(found.diff, own.diff)
    assert all(np.array_equal(a, b) for a, b in zip(found.blobs, own.blobs))


@LAYERS
@given(
    shape=SHAPES, in_place=st.booleans(), seed=st.integers(0, 2**32 - 1), bias=st.booleans(), axis=st.integers(0, 2),
    axes=st.integers(-1, 2),
)  # fmt: skip
def test_scale(
    workers: tuple[CaffeExecutor, CaffeExecutor], shape: tuple[int, ...], in_place: bool, seed: int, bias: bool, axis: int, axes: int
) -> None:  # fmt: skip
    assume(axis < len(shape) and axis + max(axes, 0) <= len(shape))
    text = f"scale_param {{ axis: {axis} num_axes: {axes} bias_term: {str(bias).lower()} }}"
    found, own = of_both(workers, net_of("Scale", shape, text, in_place), shape, seed, 1.0)
    assert np.array_equal(found.out, own.out) and np.array_equal(found.diff, own.diff)
    size = 1 + float(np.abs(own.out_diff * own.x).sum())
    assert len(own.blob_diffs) == 1 + bias
    assert all(close(a, b, size / max(1, a.size)) for a, b in zip(found.blob_diffs, own.blob_diffs))


@pytest.mark.parametrize("coefficients", ["", "coeff: 1 coeff: -1"])
def test_sum(workers: tuple[CaffeExecutor, CaffeExecutor], coefficients: str) -> None:
    shape = (3, 5, 7, 11)
    text = net_of("Eltwise", shape, f"eltwise_param {{ operation: SUM {coefficients} }}", False)
    found, own = of_both(workers, text, shape, 1, 1.0)
    assert np.array_equal(found.out, own.out) and np.array_equal(found.diff, own.diff)
    assert np.array_equal(found.out, np.zeros(shape) if coefficients else 2 * found.x)


def pool_both_ways(text: str, shape: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Outputs of a pooling layer, with infinite numbers and none and without, and where its gradient goes, which its mask tells (in a worker)."""
    rng = np.random.default_rng(seed)
    # Many are equal.
    x = rng.integers(-3, 4, shape).astype(np.float32)
    net, found = load_net(text, None), []
    data, out = net.blobs["data"], net.blobs["out"]
    for others in (0.2, 0.0):
        data.data[...] = x * rng.choice((1, -1), shape)
        data.data[rng.uniform(size=shape) < others] = -np.inf
        data.data[rng.uniform(size=shape) < others] = np.nan
        net.forward()
        # As whole numbers: 0 and -0 differ.
        found.append(np.array(out.data).view(np.int32))
        # Of a window without any number Caffe's gradient would go before the plane.
        if np.all(out.data > -np.finfo(np.float32).max):
            out.diff[...] = np.arange(1, out.data.size + 1).reshape(out.data.shape)
            net.backward()
            found.append(np.array(data.diff))
    return found


@given(
    images=st.integers(1, 2), size=st.tuples(st.integers(1, 20), st.integers(1, 70)), kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)), pad=st.tuples(st.integers(0, 3), st.integers(0, 3)), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@LAYERS
def test_max_pooling(
    workers: tuple[CaffeExecutor, CaffeExecutor], images: int, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int],
    pad: tuple[int, int], seed: int,
) -> None:  # fmt: skip
    # Caffe has windows outside of the plane where the stride is larger than the kernel.
    assume(all(p < k <= n + 2 * p and s <= k for n, k, s, p in zip(size, kernel, stride, pad)))
    shape = (images, 3, *size)
    text = " ".join(
        f"{name}_{axis}: {value}"
        for name, both in (("kernel", kernel), ("stride", stride), ("pad", pad))
        for axis, value in zip("hw", both)
    )
    net = net_of("Pooling", shape, f"pooling_param {{ pool: MAX {text} }}", False)
    found, own = (w.result(w.submit(pool_both_ways, net, shape, seed)) for w in workers)
    assert len(found) == len(own) >= 3 and all(np.array_equal(a, b) for a, b in zip(found, own))


@pytest.mark.parametrize(("threads", "instructions"), [(3, ""), (1, "SSE41")])
def test_threads_and_older_cpus(
    workers: tuple[CaffeExecutor, CaffeExecutor], threads: int, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if instructions:
        monkeypatch.setenv("DNNL_MAX_CPU_ISA", instructions)
    monkeypatch.setenv(NANOSECONDS, "0")
    shape = (4, 13, 33, 37)
    with CaffeExecutor(1, threads) as executor:
        for kind, text in (
            ("BatchNorm", "batch_norm_param { use_global_stats: false }"),
            ("Scale", "scale_param { bias_term: true }"),
        ):
            task = (net_of(kind, shape, text, True), shape, 2, 1.0)
            found, own = (
                executor.result(executor.submit(both_ways, *task)),
                workers[1].result(workers[1].submit(both_ways, *task)),
            )
            assert close(found.out, own.out) and close(found.diff, own.diff)
            assert all(close(a, b) for a, b in zip(found.blobs + found.blob_diffs, own.blobs + own.blob_diffs))
        for stride in (1, 2, 3):
            net = net_of("Pooling", shape, f"pooling_param {{ pool: MAX kernel_size: 3 stride: {stride} }}", False)
            found, own = (w.result(w.submit(pool_both_ways, net, shape, 3)) for w in (executor, workers[1]))
            assert len(found) == len(own) >= 3 and all(np.array_equal(a, b) for a, b in zip(found, own))
