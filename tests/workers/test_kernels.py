"""The kernels of convolutions, fully connected and pooling layers, held against Caffe's own code and against NumPy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from enc_caffe.cli import main
from enc_caffe.installation import find_caffe
from enc_caffe.workers.blas import OWN_CODE, Arithmetic
from enc_caffe.workers.executor import CaffeExecutor
from enc_caffe.workers.pycaffe import layer_kernels, load_net
from tests.measuring.nets import conv

pytestmark = pytest.mark.caffe

#: Of the largest number of an array.
FORWARD, GRADIENT = 1e-5, 1e-4


def built_with_onednn() -> bool:
    """Whether ``make caffe`` built it in."""
    return find_caffe().about.get("conv") == "onednn"


needs_onednn = pytest.mark.skipif(
    not built_with_onednn(), reason="this Caffe was built without oneDNN (ENC_CAFFE_CONV=caffe, or not by make caffe)"
)


@pytest.fixture(scope="module")
def worker() -> Iterator[CaffeExecutor]:
    """One process with one thread."""
    with CaffeExecutor(1) as executor:
        yield executor


#: Work that each thread must have. Of 0 even the layers of tests are shared.
NANOSECONDS = "ENC_CAFFE_NS_PER_THREAD"


@pytest.fixture(scope="module", params=[(1, "0"), (3, "0"), (3, "2000")], ids=str)
def team(request: pytest.FixtureRequest) -> Iterator[CaffeExecutor]:
    """One process with one thread, with three for every layer, or with three for those that take longer."""
    threads, nanoseconds = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(NANOSECONDS, nanoseconds)
        with CaffeExecutor(1, threads) as executor:
            yield executor


def one_layer(kind: str, shape: tuple[int, ...], parameters: str, tops: str = 'top: "out"') -> str:
    """A net of one layer that also has a gradient for its input."""
    dims = " ".join(f"dim: {d}" for d in shape)
    return (
        f'force_backward: true layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'
        f'layer {{ name: "it" type: "{kind}" bottom: "data" {tops} {parameters} }}\n'
    )


def passes(texts: list[str], shape: tuple[int, ...], seed: int) -> list[tuple[str, list[np.ndarray]]]:
    """Of each net with the same weights, input and gradient of its output: kernel, output and all gradients (in a worker).

    Gradients of weights begin at 1, since Caffe adds to what is there.
    """
    rng, found = np.random.default_rng(seed), []
    x = rng.standard_normal(shape)
    weights: Optional[list[np.ndarray]] = None
    out_diff: Optional[np.ndarray] = None
    for text in texts:
        net = load_net(text, None)
        blobs = list(net.params.get("it", []))
        weights = weights or [rng.standard_normal(b.data.shape) for b in blobs]
        for blob, weight in zip(blobs, weights):
            blob.data[...], blob.diff[...] = weight, 1
        net.blobs["data"].data[...] = x
        net.forward()
        out = net.blobs["out"]
        out_diff = rng.standard_normal(out.data.shape) if out_diff is None else out_diff
        out.diff[...] = out_diff
        net.backward()
        arrays = [
            out.data,
            net.blobs["data"].diff,
            *(b.diff for b in blobs),
            *(net.blobs[n].data for n in net.blobs if n == "mask"),
        ]
        kernel = str(getattr(net.layers[1], "kernel", OWN_CODE))
        found.append((kernel, [np.array(a) for a in arrays]))
    return found


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference over the largest number of ``b``."""
    assert a.shape == b.shape and np.isfinite(a).all()
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[str, tuple[int, ...], str]:
    """Type, shape of the input and parameters: any groups, depthwise, 1xD and Dx1, strides, pads beyond the kernel, dilation."""
    kind = draw(st.sampled_from(["Convolution", "Convolution", "Deconvolution"]))
    per_group = st.integers(1, 20)
    if draw(st.booleans()):
        groups, inputs, outputs = 1, draw(st.integers(1, 40)), draw(st.integers(1, 40))
    else:
        groups = draw(st.integers(2, 17))
        a, b = (1, draw(st.integers(1, 3))) if draw(st.booleans()) else (draw(per_group), draw(per_group))
        inputs, outputs = groups * a, groups * b
    pair = lambda low, high: draw(st.tuples(st.integers(low, high), st.integers(low, high)))  # noqa: E731
    kernel, stride, pad, dilation, size = pair(1, 5), pair(1, 3), pair(0, 4), pair(1, 3), pair(1, 20)
    for k, s, p, d, n in zip(kernel, stride, pad, dilation, size):
        extent = d * (k - 1) + 1
        assume(n + 2 * p >= extent if kind == "Convolution" else s * (n - 1) + extent - 2 * p >= 1)
    text = (
        f"num_output: {outputs} group: {groups} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]} "
        f"pad_h: {pad[0]} pad_w: {pad[1]} dilation: {dilation[0]} dilation: {dilation[1]} bias_term: {str(draw(st.booleans())).lower()}"
    )
    return kind, (draw(st.integers(1, 4)), inputs, *size), text


@needs_onednn
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layer=convolutions(), seed=st.integers(0, 2**32 - 1))
def test_any_convolution_is_that_of_caffes_own_code(
    team: CaffeExecutor, layer: tuple[str, tuple[int, ...], str], seed: int
) -> None:
    kind, shape, text = layer
    nets = [one_layer(kind, shape, f"convolution_param {{ {text} {engine} }}") for engine in ("", "engine: CAFFE")]
    (_, (out, *gradients)), (own, (own_out, *own_gradients)) = team.result(team.submit(passes, nets, shape, seed))
    assert own == OWN_CODE
    assert distance(out, own_out) <= FORWARD
    assert len(gradients) == len(own_gradients) >= 2
    for gradient, reference in zip(gradients, own_gradients):
        assert distance(gradient, reference) <= GRADIENT


@needs_onednn
@pytest.mark.parametrize(
    ("kind", "shape", "text"),
    [
        ("Convolution", (3, 64, 14, 14), "num_output: 20 kernel_h: 3 kernel_w: 1 pad_h: 1"),
        ("Convolution", (3, 20, 14, 14), "num_output: 64 kernel_h: 1 kernel_w: 3 pad_w: 1"),
        ("Convolution", (2, 32, 14, 14), "num_output: 32 kernel_size: 3 pad: 1 group: 32"),
        ("Convolution", (2, 32, 56, 56), "num_output: 32 kernel_size: 3 pad: 1 stride: 2 group: 32"),
        ("Convolution", (2, 96, 13, 13), "num_output: 256 kernel_size: 5 pad: 2 group: 2"),
        ("Convolution", (2, 16, 9), "num_output: 8 kernel_size: 3"),
        ("Convolution", (2, 4, 5, 6, 7), "num_output: 8 kernel_size: 3 pad: 1"),
        ("Convolution", (40, 16, 6, 6), "num_output: 16 kernel_size: 3 pad: 1 stride: 2"),
        ("Convolution", (40, 20, 6, 6), "num_output: 20 kernel_size: 3 pad: 1"),
        ("Deconvolution", (2, 16, 7, 7), "num_output: 8 kernel_size: 4 stride: 2 pad: 1"),
    ],
)
def test_layers_of_real_networks_have_fast_kernels(
    worker: CaffeExecutor, kind: str, shape: tuple[int, ...], text: str
) -> None:
    nets = [one_layer(kind, shape, f"convolution_param {{ {text} {engine} }}") for engine in ("", "engine: CAFFE")]
    (kernel, arrays), (own, references) = worker.result(worker.submit(passes, nets, shape, 0))
    # What an SSE4.1 machine has no kernel for, Caffe computes.
    few = 20 in (shape[1], int(text.split()[1]))
    wanted = "loops depthwise" if text.endswith("group: 32") else "loops few channels" if few else "oneDNN "
    assert (kernel.startswith(wanted) or "SSE" in worker.arithmetic.layers) and own == OWN_CODE
    assert all(distance(a, b) <= (GRADIENT if i else FORWARD) for i, (a, b) in enumerate(zip(arrays, references)))


@pytest.mark.parametrize(
    ("batch", "outputs", "transpose"), [(1, 256, False), (7, 300, False), (5, 257, True), (3, 4, True)]
)
def test_fully_connected_layers(worker: CaffeExecutor, batch: int, outputs: int, transpose: bool) -> None:
    shape = (batch, 4, 8, 8)
    text = f"inner_product_param {{ num_output: {outputs} transpose: {str(transpose).lower()} }}"
    ((kernel, (out, bottom, weight, bias)),) = worker.result(
        worker.submit(passes, [one_layer("InnerProduct", shape, text)], shape, 1)
    )
    assert kernel == ("oneDNN gemm" if outputs * 256 >= 2**16 and built_with_onednn() else OWN_CODE)
    # As `passes` draws them.
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape).reshape(batch, -1)
    w = rng.standard_normal((256, outputs) if transpose else (outputs, 256))
    w, b = (w.T if transpose else w), rng.standard_normal(outputs)
    diff = rng.standard_normal((batch, outputs))
    assert distance(out, x @ w.T + b) <= FORWARD
    assert distance(bottom, (diff @ w).reshape(shape)) <= GRADIENT
    assert distance(weight.T if transpose else weight, 1 + diff.T @ x) <= GRADIENT
    assert distance(bias, 1 + diff.sum(axis=0)) <= GRADIENT


def pooled(
    x: np.ndarray, diff: np.ndarray, average: bool, kernel: int, stride: int, pad: int
) -> tuple[np.ndarray, ...]:
    """Output, mask and gradient of a pooling layer in Caffe's order of operations, one number after the other in single precision."""
    out, mask, gradient = np.zeros_like(diff), np.full_like(diff, -1), np.zeros_like(x)
    height, width = x.shape[2:]
    for at in np.ndindex(diff.shape):
        top, left = at[2] * stride - pad, at[3] * stride - pad
        size = np.float32((min(top + kernel, height + pad) - top) * (min(left + kernel, width + pad) - left))
        window = [
            (h, w)
            for h in range(max(top, 0), min(top + kernel, height))
            for w in range(max(left, 0), min(left + kernel, width))
        ]
        value = np.float32(0 if average else -np.finfo(np.float32).max)
        for h, w in window:
            number = x[at[0], at[1], h, w]
            if average:
                value = np.float32(value + number)
            elif number > value:
                value, mask[at] = number, h * width + w
        out[at] = value / size if average else value
        plane = gradient[at[0], at[1]]
        if average:
            for place in window:
                plane[place] += np.float32(diff[at] / size)
        else:
            plane[divmod(int(mask[at]), width)] += diff[at]
    return out, mask, gradient


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad"), [(8, 2, 2, 0), (7, 3, 2, 0), (9, 3, 2, 1), (6, 3, 1, 1), (5, 5, 1, 0)]
)
def test_pooling_is_caffes_bit_for_bit(
    worker: CaffeExecutor, average: bool, size: int, kernel: int, stride: int, pad: int
) -> None:
    shape = (2, 3, size, size)
    text = f"pooling_param {{ pool: {'AVE' if average else 'MAX'} kernel_size: {kernel} stride: {stride} pad: {pad} }}"
    tops = 'top: "out"' if average else 'top: "out" top: "mask"'
    nets = [one_layer("Pooling", shape, text), one_layer("Pooling", shape, text, tops)]
    found = worker.result(worker.submit(passes, nets, shape, 2))
    rng = np.random.default_rng(2)
    x = rng.standard_normal(shape).astype(np.float32)
    diff = rng.standard_normal(found[0][1][0].shape).astype(np.float32)
    out, mask, gradient = pooled(x, diff, average, kernel, stride, pad)
    for _, arrays in found:
        assert np.array_equal(arrays[0], out) and np.array_equal(arrays[1], gradient)
    if not average:
        assert np.array_equal(found[1][1][2], mask)


@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_relu_backward(worker: CaffeExecutor, slope: float) -> None:
    shape = (2, 3, 4, 5)
    ((_, (out, gradient)),) = worker.result(
        worker.submit(passes, [one_layer("ReLU", shape, f"relu_param {{ negative_slope: {slope} }}")], shape, 3)
    )
    rng = np.random.default_rng(3)
    x, diff = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    assert np.array_equal(out, np.where(x > 0, x, np.float32(slope) * x))
    assert np.array_equal(gradient, np.where(x > 0, diff, np.float32(slope) * diff))


def written_in_place(text: str) -> list[list[float]]:
    """Outputs of a net after its weights and input were written to in place, in all orders (in a worker)."""
    net = load_net(text, None)
    weight, data = net.params["it"][0].data, net.blobs["data"].data
    net.params["it"][1].data[...] = 0
    found = []
    for w, x, backward in [
        (1, 1, False),
        (2, 1, False),
        (2, 3, True),
        (5, 3, False),
        (5, 3, False),
        (1, 3, True),
        (4, 1, False),
    ]:
        weight[...], data[...] = w, x
        net.forward()
        if backward:
            net.blobs["out"].diff[...] = 1
            net.backward()
            # All inputs of the middle feel all nine weights of each of the 16 outputs.
            found.append([9 * 16 * w, float(net.blobs["data"].diff[0, 0, 3, 3])])
        found.append([9 * 16 * w * x, float(net.blobs["out"].data[0, 0, 3, 3])])
    return found


def test_weights_that_are_written_in_place_are_used(worker: CaffeExecutor) -> None:
    text = one_layer("Convolution", (2, 16, 8, 8), "convolution_param { num_output: 16 kernel_size: 3 pad: 1 }")
    found = worker.result(worker.submit(written_in_place, text))
    assert len(found) == 9 and all(wanted == got for wanted, got in found)


def alone_and_together(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of five images one by one, and in one batch (in a worker)."""
    net = load_net(text, None)
    rng = np.random.default_rng(4)
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] = rng.standard_normal(blob.data.shape)
    images = rng.standard_normal((5, *net.blobs["data"].data.shape[1:]))
    out = []
    for part in [*np.split(images, 5), images]:
        net.blobs["data"].reshape(*part.shape)
        net.blobs["data"].data[...] = part
        net.forward()
        out.append(np.array(net.blobs["out"].data))
    return np.concatenate(out[:5]), out[5]


def test_an_images_output_is_the_same_in_any_batch(worker: CaffeExecutor) -> None:
    for text in (
        # oneDNN's direct kernels with groups, a stride, and 1x1; the loops have tests of their own (test_convolution_loops.py).
        "num_output: 32 kernel_size: 3 pad: 1 group: 2",
        "num_output: 24 kernel_size: 3 pad: 1 stride: 2",
        "num_output: 16 kernel_size: 3 group: 16",
        "num_output: 16 kernel_size: 1 stride: 2",
    ):
        net = one_layer("Convolution", (1, 16, 12, 12), f"convolution_param {{ {text} }}")
        alone, together = worker.result(worker.submit(alone_and_together, net))
        assert np.array_equal(alone, together)


def same_by_threads(net: str, shape: tuple[int, ...]) -> tuple[str, str]:
    """The kernel of a layer whose numbers one thread and three give alike, and what the process computes with."""
    found, computing = [], ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(NANOSECONDS, "0")
        for threads in (1, 3):
            with CaffeExecutor(1, threads) as executor:
                found += executor.result(executor.submit(passes, [net], shape, 5))
                computing = executor.arithmetic.layers
    (kernel, (out, bottom, *gradients)), (_, (out3, bottom3, *gradients3)) = found
    assert np.array_equal(out, out3) and np.array_equal(bottom, bottom3)
    assert all(distance(a, b) <= GRADIENT for a, b in zip(gradients, gradients3))
    return kernel, computing


#: Layers of all kinds that are computed by oneDNN or in loops, over 12x12.
SMALL = (
    ("Convolution", 16, "convolution_param { num_output: 24 kernel_size: 3 pad: 1 stride: 2 }"),
    ("Deconvolution", 16, "convolution_param { num_output: 24 kernel_size: 3 pad: 1 stride: 2 }"),
    ("Convolution", 16, "convolution_param { num_output: 24 kernel_size: 3 pad: 1 }"),
    ("Convolution", 16, "convolution_param { num_output: 5 kernel_size: 3 pad: 1 }"),
    ("Convolution", 4, "convolution_param { num_output: 4 group: 4 kernel_size: 3 pad: 1 }"),
    ("InnerProduct", 16, "inner_product_param { num_output: 40 }"),
    ("BatchNorm", 16, "batch_norm_param { use_global_stats: false }"),
    ("BatchNorm", 16, "batch_norm_param { use_global_stats: true }"),
    ("Scale", 16, "scale_param { bias_term: true }"),
    ("Pooling", 16, "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"),
)


def threads_after_passes(nets: list[str], shapes: list[tuple[int, ...]]) -> int:
    """How many more threads the process has after passes through layers both ways (in a worker)."""
    # BLAS starts its own first.
    shape = (1, 64, 12, 12)
    passes(
        [one_layer("Convolution", shape, "convolution_param { num_output: 64 kernel_size: 3 engine: CAFFE }")], shape, 1
    )
    before = len(os.listdir("/proc/self/task"))
    for net, shape in zip(nets, shapes):
        passes([net], shape, 1)
    return len(os.listdir("/proc/self/task")) - before


@needs_onednn
@pytest.mark.parametrize(("nanoseconds", "more"), [("", 0), ("0", 2)])
@pytest.mark.parametrize("images", [1, 4])
def test_no_thread_is_woken_for_little_work(
    images: int, nanoseconds: str, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NANOSECONDS, raising=False)
    if nanoseconds:
        monkeypatch.setenv(NANOSECONDS, nanoseconds)
    shapes = [(images, channels, 12, 12) for _, channels, _ in SMALL]
    nets = [one_layer(kind, shape, text) for (kind, _, text), shape in zip(SMALL, shapes)]
    with CaffeExecutor(1, 3) as executor:
        assert executor.result(executor.submit(threads_after_passes, nets, shapes)) == more
        # Of many images the same layer is shared.
        many = (100, *shapes[0][1:])
        net = one_layer(SMALL[0][0], many, SMALL[0][2])
        assert executor.result(executor.submit(threads_after_passes, [net], [many])) == 2 - more


@needs_onednn
def test_threads_share_the_images() -> None:
    net = one_layer(
        "Convolution", (7, 16, 12, 12), "convolution_param { num_output: 24 kernel_size: 3 pad: 1 stride: 2 }"
    )
    assert same_by_threads(net, (7, 16, 12, 12))[0].startswith("oneDNN")


@needs_onednn
def test_the_environment_asks_for_caffes_own_code(worker: CaffeExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (2, 16, 12, 12)
    text = "num_output: 24 kernel_size: 3 pad: 1"
    net, own = (one_layer("Convolution", shape, f"convolution_param {{ {text} {e} }}") for e in ("", "engine: CAFFE"))
    assert (
        worker.arithmetic.layers.startswith("oneDNN ") and worker.arithmetic.key()["layers"] == worker.arithmetic.layers
    )
    assert worker.arithmetic.layers in worker.arithmetic.words()
    assert worker.result(worker.submit(layer_kernels)) == worker.arithmetic.layers
    monkeypatch.setenv("ENC_CAFFE_CONV", "caffe")
    with CaffeExecutor(1) as executor:
        # Results of before there was oneDNN stand.
        assert executor.arithmetic.layers == OWN_CODE and "layers" not in executor.arithmetic.key()
        assert executor.arithmetic == Arithmetic(worker.arithmetic.kernel, 1)
        (_, a), (_, b) = executor.result(executor.submit(passes, [net, own], shape, 6))
    assert all(np.array_equal(x, y) for x, y in zip(a, b))


@needs_onednn
@pytest.mark.parametrize("instructions", ["SSE41", "AVX2"])
def test_older_cpus(instructions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", instructions)
    shape = (2, 16, 12, 12)
    texts = ["num_output: 24 kernel_size: 3 pad: 1", "num_output: 16 group: 16 kernel_size: 3"]
    nets = [
        one_layer("Convolution", shape, f"convolution_param {{ {text} {e} }}")
        for text in texts
        for e in ("", "engine: CAFFE")
    ]
    with CaffeExecutor(1) as executor:
        name, loops = executor.arithmetic.layers.split(" ", 2)[2].split("+")
        assert loops == "loops4"
        assert name == {"SSE41": "SSE4.1"}.get(instructions, instructions) or name == "SSE4.1"
        for at in range(0, len(nets), 2):
            (_, arrays), (_, own) = executor.result(executor.submit(passes, nets[at : at + 2], shape, 7))
            assert all(distance(a, b) <= (GRADIENT if i else FORWARD) for i, (a, b) in enumerate(zip(arrays, own)))


def test_doctor_tells_what_computes_each_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "net.prototxt"
    model.write_text(
        'name: "two" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 16 dim: 16 } } }\n'
        + conv("a", "data", 16)
        + conv("b", "a", 16).replace("num_output", "engine: CAFFE num_output")
    )
    assert main(["doctor", "--json", "--model", str(model)]) == 0
    found: dict[str, dict[str, Any]] = {f["what"]: f for f in json.loads(capsys.readouterr().out)}
    assert found["layer b (Convolution)"]["found"] == OWN_CODE
    assert found["layer a (Convolution)"]["found"].startswith(("oneDNN", "loops") if built_with_onednn() else OWN_CODE)
    speeds = re.findall(r"(\d+\.\d) GFLOP/s, depthwise (\d+\.\d)", found["layers"]["found"])
    assert speeds and all(float(s) > 0 for s in speeds[0])
    assert found["layers"]["status"] == ("ok" if built_with_onednn() else "slow")


def test_doctor_refuses_a_prototxt_with_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.prototxt").write_text("layer {")
    assert main(["doctor", "--model", str(tmp_path / "net.prototxt")]) == 1
    assert "net.prototxt" in capsys.readouterr().err


def test_waiting_threads_do_not_spin() -> None:
    code = "import os, sys; sys.path.insert(0, sys.argv[1]); import caffe; print(os.environ['OMP_WAIT_POLICY'], os.environ.get('OPENBLAS_NUM_THREADS'))"
    env = {
        k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS", "ENC_CAFFE_CONV")
    }
    for extra, wanted in (({}, "PASSIVE 1"), ({"OPENBLAS_NUM_THREADS": "3", "OMP_WAIT_POLICY": "active"}, "active 3")):
        if not built_with_onednn():
            wanted = wanted.replace(" 1", " None")
        done = subprocess.run(
            [sys.executable, "-c", code, str(find_caffe().python_dir)], env={**env, **extra}, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == wanted
