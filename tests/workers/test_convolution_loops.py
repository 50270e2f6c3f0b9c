"""Depthwise convolutions, those of few channels, and 3x3 ones by Winograd's algorithm, held against Caffe's own code."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from enc_caffe.workers.blas import OWN_CODE
from enc_caffe.workers.executor import CaffeExecutor
from tests.workers.test_kernels import (
    FORWARD,
    GRADIENT,
    NANOSECONDS,
    alone_and_together,
    distance,
    needs_onednn,
    one_layer,
    passes,
    same_by_threads,
)

pytestmark = [pytest.mark.caffe, needs_onednn]

LAYERS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
#: Fewer than three threads share each; more, or as many, are shared.
IMAGES = st.integers(1, 4)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@pytest.fixture(
    scope="module", params=[("", 1, "0"), ("", 3, "0"), ("", 3, "2000"), ("AVX2", 1, "0"), ("SSE41", 1, "0")], ids=str
)
def worker(request: pytest.FixtureRequest) -> Iterator[CaffeExecutor]:
    """A process that computes by this CPU's instructions, in one thread, three, or three for what takes longer, or by older ones."""
    instructions, threads, nanoseconds = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(NANOSECONDS, nanoseconds)
        if instructions:
            patch.setenv("DNNL_MAX_CPU_ISA", instructions)
        with CaffeExecutor(1, threads) as executor:
            if instructions:
                # Not what the next set would be called.
                assert "AVX-512" not in executor.arithmetic.layers
            yield executor


def layer_text(shape: tuple[int, ...], outputs: int, text: str) -> list[str]:
    """A net of one 3x3 layer by what is fast, and by Caffe's own code."""
    return [
        one_layer("Convolution", shape, f"convolution_param {{ num_output: {outputs} kernel_size: 3 {text} {e} }}")
        for e in ("", "engine: CAFFE")
    ]  # fmt: skip


def held_against_caffe(worker: CaffeExecutor, nets: list[str], shape: tuple[int, ...], seed: int) -> str:
    """The kernel of the first net, whose numbers are those of the second."""
    (kernel, arrays), (own, references) = worker.result(worker.submit(passes, nets, shape, seed))
    assert own == OWN_CODE and len(arrays) == len(references) >= 3
    for i, (array, reference) in enumerate(zip(arrays, references)):
        assert distance(array, reference) <= (GRADIENT if i else FORWARD)
    return str(kernel)


@LAYERS
@given(
    images=IMAGES, channels=st.integers(2, 5), each=st.integers(1, 2), size=SIZES, pad=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    stride=st.integers(1, 2), bias=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_depthwise(
    worker: CaffeExecutor, images: int, channels: int, each: int, size: tuple[int, int], pad: tuple[int, int], stride: int, bias: bool,
    seed: int,
) -> None:  # fmt: skip
    assume(all(n + 2 * p >= 3 for n, p in zip(size, pad)))
    text = f"group: {channels} stride: {stride} pad_h: {pad[0]} pad_w: {pad[1]} bias_term: {str(bias).lower()}"
    shape = (images, channels, *size)
    assert held_against_caffe(worker, layer_text(shape, channels * each, text), shape, seed) == "loops depthwise"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (7, 7), (8, 112), (33, 2)])
def test_depthwise_planes_of_all_kinds(worker: CaffeExecutor, size: tuple[int, int], stride: int) -> None:
    shape = (3, 2, *size)
    nets = layer_text(shape, 2, f"group: 2 stride: {stride} pad: 1")
    assert held_against_caffe(worker, nets, shape, 1) == "loops depthwise"


@LAYERS
@given(
    images=IMAGES, inputs=st.integers(14, 40), outputs=st.integers(14, 40), size=SIZES, pad=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    bias=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_3x3(
    worker: CaffeExecutor, images: int, inputs: int, outputs: int, size: tuple[int, int], pad: tuple[int, int], bias: bool, seed: int
) -> None:  # fmt: skip
    assume(all(n + 2 * p >= 3 for n, p in zip(size, pad)))
    shape, text = (images, inputs, *size), f"pad_h: {pad[0]} pad_w: {pad[1]} bias_term: {str(bias).lower()}"
    kernel = held_against_caffe(worker, layer_text(shape, outputs, text), shape, seed)
    if kernel == "loops Winograd":
        assert "AVX-512" in worker.arithmetic.layers and min(inputs, outputs) >= 16


@pytest.mark.parametrize(
    ("channels", "size"), [(16, (32, 32)), (32, (16, 16)), (64, (8, 8)), (24, (14, 14)), (16, (7, 56))]
)
def test_winograd_needs_avx512(worker: CaffeExecutor, channels: int, size: tuple[int, int]) -> None:
    shape = (3, channels, *size)
    kernel = held_against_caffe(worker, layer_text(shape, channels, "pad: 1"), shape, 2)
    # What an SSE4.1 machine has no kernel for, Caffe computes.
    assert (kernel == "loops Winograd") == ("AVX-512" in worker.arithmetic.layers)


@LAYERS
@given(
    images=IMAGES, inputs=st.integers(1, 30), outputs=st.integers(1, 30), size=SIZES,
    kernel=st.sampled_from([(3, 1), (1, 3), (1, 1), (3, 3), (2, 5), (5, 2)]), pad=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    bias=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_few_channels(
    worker: CaffeExecutor, images: int, inputs: int, outputs: int, size: tuple[int, int], kernel: tuple[int, int], pad: tuple[int, int],
    bias: bool, seed: int,
) -> None:  # fmt: skip
    assume(all(n + 2 * p >= k for n, p, k in zip(size, pad, kernel)))
    shape = (images, inputs, *size)
    text = (
        f"num_output: {outputs} kernel_h: {kernel[0]} kernel_w: {kernel[1]} pad_h: {pad[0]} pad_w: {pad[1]} "
        f"bias_term: {str(bias).lower()}"
    )
    nets = [one_layer("Convolution", shape, f"convolution_param {{ {text} {e} }}") for e in ("", "engine: CAFFE")]
    found = held_against_caffe(worker, nets, shape, seed)
    if found == "loops few channels":
        assert "AVX" in worker.arithmetic.layers and all(p < k for p, k in zip(pad, kernel))


@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "kernel"),
    [
        (16, 3, (32, 32), (1, 3)), (3, 16, (32, 32), (3, 1)), (5, 33, (8, 8), (1, 3)), (33, 9, (14, 14), (3, 3)), (2, 7, (9, 21), (2, 3)),
        (18, 4, (4, 4), (1, 1)), (6, 6, (200, 150), (3, 1)), (20, 3, (3, 7), (1, 1)),
    ],
)  # fmt: skip
def test_few_channels_of_all_kinds_of_rows(
    worker: CaffeExecutor, inputs: int, outputs: int, size: tuple[int, int], kernel: tuple[int, int]
) -> None:
    shape = (3, inputs, *size)
    text = f"num_output: {outputs} kernel_h: {kernel[0]} kernel_w: {kernel[1]} pad_h: {kernel[0] // 2} pad_w: {kernel[1] // 2}"
    nets = [one_layer("Convolution", shape, f"convolution_param {{ {text} {e} }}") for e in ("", "engine: CAFFE")]
    assert (held_against_caffe(worker, nets, shape, 3) == "loops few channels") == ("AVX" in worker.arithmetic.layers)


#: By Winograd's algorithm, and by the loops for few channels.
NETS = pytest.mark.parametrize("outputs", [24, 5])


@NETS
def test_an_images_output_is_the_same_in_any_batch(worker: CaffeExecutor, outputs: int) -> None:
    net = layer_text((1, 20, 18, 18), outputs, "pad: 1")[0]
    alone, together = worker.result(worker.submit(alone_and_together, net))
    assert np.array_equal(alone, together)


@NETS
def test_threads(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A fixture of other tests' may still forbid the instructions that the loops need.
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    shape = (5, 20, 18, 18)
    kernel, computing = same_by_threads(layer_text(shape, outputs, "pad: 1")[0], shape)
    # 24 outputs are Winograd's, which needs AVX-512; 5 are few, for which AVX2 will do.
    assert kernel.startswith("loops") == (("AVX-512" if outputs == 24 else "AVX") in computing)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(
    ("outputs", "size", "text"),
    [
        (24, (40, 56), "kernel_size: 3 pad: 1"), (24, (9, 7), "kernel_size: 3 pad: 1"), (5, (40, 56), "kernel_size: 3 pad: 1"),
        (5, (150, 64), "kernel_h: 3 pad_h: 1 kernel_w: 1"), (5, (64, 150), "kernel_w: 3 pad_w: 1 kernel_h: 1"), (5, (61, 67), "kernel_size: 1"),
        (20, (50, 34), "kernel_size: 3 group: 20 pad: 1"),
    ],
)  # fmt: skip
def test_threads_that_share_an_image(
    images: int, outputs: int, size: tuple[int, int], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    shape = (images, 20, *size)
    net = one_layer("Convolution", shape, f"convolution_param {{ num_output: {outputs} {text} }}")
    kernel, computing = same_by_threads(net, shape)
    assert kernel.startswith("loops") or "AVX-512" not in computing
