"""Layers on the GPU, held against the CPU: output, all gradients, and what BatchNorm stores."""

from __future__ import annotations

from typing import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from enc_caffe.installation import find_caffe
from enc_caffe.workers.executor import CaffeExecutor
from tests.workers.test_kernels import convolutions, distance, one_layer, passes
from tests.workers.test_loops import SHAPES, both_ways, net_of

pytestmark = pytest.mark.caffe

Pair = tuple[CaffeExecutor, CaffeExecutor]
#: Of the largest number of an array; both sides add up in 32 bits, in different orders.
FORWARD, GRADIENT = 1e-5, 1e-4
EXAMPLES = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def of_both(workers: Pair, task: Callable, *arguments: object) -> tuple:
    """What the GPU and the CPU computed."""
    found = [w.submit(task, *arguments) for w in workers]
    return tuple(w.result(f) for w, f in zip(workers, found))


def held_against_the_cpu(workers: Pair, kind: str, shape: tuple[int, ...], text: str, seed: int) -> str:
    """Compares one layer's passes; returns what computed it on the GPU."""
    nets = [one_layer(kind, shape, text)]
    ((kernel, (out, *gradients)),), ((_, (reference, *references)),) = of_both(workers, passes, nets, shape, seed)
    assert distance(out, reference) <= FORWARD
    assert len(gradients) == len(references) >= 1
    for gradient, wanted in zip(gradients, references):
        assert distance(gradient, wanted) <= GRADIENT
    return kernel


@pytest.mark.parametrize(
    ("kind", "shape", "text"),
    [
        ("Convolution", (128, 16, 32, 32), "num_output: 16 kernel_size: 3 pad: 1 bias_term: false"),
        ("Convolution", (3, 64, 14, 14), "num_output: 20 kernel_h: 3 kernel_w: 1 pad_h: 1 pad_w: 0"),
        ("Convolution", (3, 20, 14, 14), "num_output: 64 kernel_h: 1 kernel_w: 3 pad_h: 0 pad_w: 1"),
        ("Convolution", (2, 256, 14, 14), "num_output: 64 kernel_size: 1"),
        ("Convolution", (2, 16, 32, 32), "num_output: 32 kernel_size: 2 stride: 2"),
        ("Convolution", (2, 32, 14, 14), "num_output: 32 kernel_size: 3 pad: 1 group: 32"),
        ("Convolution", (2, 32, 56, 56), "num_output: 32 kernel_size: 3 pad: 1 stride: 2 group: 32"),
        ("Convolution", (2, 96, 13, 13), "num_output: 256 kernel_size: 5 pad: 2 group: 2"),
        ("Convolution", (2, 8, 20, 20), "num_output: 8 kernel_size: 3 pad: 2 dilation: 2"),
        ("Convolution", (2, 16, 9), "num_output: 8 kernel_size: 3"),
        ("Convolution", (2, 4, 5, 6, 7), "num_output: 8 kernel_size: 3 pad: 1"),
        ("Deconvolution", (2, 16, 7, 7), "num_output: 8 kernel_size: 4 stride: 2 pad: 1"),
        ("Deconvolution", (2, 12, 7, 7), "num_output: 12 kernel_size: 4 stride: 2 pad: 1 group: 12 bias_term: false"),
    ],
)
def test_convolutions_of_real_networks(workers: Pair, kind: str, shape: tuple[int, ...], text: str) -> None:
    kernel = held_against_the_cpu(workers, kind, shape, f"convolution_param {{ {text} }}", 0)
    assert kernel.startswith("cuDNN") == bool(find_caffe().about.get("cudnn"))
    assert held_against_the_cpu(workers, kind, shape, f"convolution_param {{ {text} engine: CAFFE }}", 0) == "caffe"


@EXAMPLES
@given(layer=convolutions(), seed=st.integers(0, 2**32 - 1))
def test_any_convolution(workers: Pair, layer: tuple[str, tuple[int, ...], str], seed: int) -> None:
    kind, shape, text = layer
    held_against_the_cpu(workers, kind, shape, f"convolution_param {{ {text} }}", seed)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("Pooling", "pooling_param { kernel_size: 3 stride: 2 }"),
        ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"),
        ("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
        ("ReLU", ""),
        ("ReLU", "relu_param { negative_slope: 0.1 }"),
        ("Sigmoid", ""),
        ("TanH", ""),
        ("ELU", ""),
        ("PReLU", ""),
        ("Softmax", ""),
        ("LRN", "lrn_param { local_size: 5 }"),
        ("LRN", "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }"),
        ("InnerProduct", "inner_product_param { num_output: 300 }"),
        ("Bias", ""),
    ],
)
@pytest.mark.parametrize("engine", ["", "CUDNN"])
def test_other_layers(workers: Pair, kind: str, text: str, engine: str) -> None:
    if engine:
        of_cudnn = {"Pooling": "pooling_param", "ReLU": "relu_param", "Sigmoid": "sigmoid_param", "TanH": "tanh_param"}
        of_cudnn.update({"Softmax": "softmax_param", "LRN": "lrn_param"})
        clipped = "AVE kernel_size" in text  # cuDNN divides by the whole window at the edges, where Caffe does not
        if kind not in of_cudnn or clipped or not find_caffe().about.get("cudnn"):
            return
        field = of_cudnn[kind]
        text = text[: -len(" }")] + f" engine: {engine} }}" if field in text else f"{field} {{ engine: {engine} }}"
    held_against_the_cpu(workers, kind, (4, 12, 9, 9), text, 3)


def close(a: np.ndarray, b: np.ndarray, size: float = 0.0, bound: float = FORWARD) -> bool:
    """Whether no number differs by more than the bound times the largest one, or ``size``."""
    return bool(np.isfinite(a).all() and np.abs(a - b).max() <= bound * max(size, float(np.abs(b).max())))


@EXAMPLES
@given(shape=SHAPES, in_place=st.booleans(), seed=st.integers(0, 2**32 - 1), offset=st.floats(-5, 5))
def test_batch_norm_by_the_batch(
    workers: Pair, shape: tuple[int, ...], in_place: bool, seed: int, offset: float
) -> None:
    assume(np.prod(shape) // shape[1] >= 8)  # of two numbers only the sign is left
    text = net_of("BatchNorm", shape, "batch_norm_param { use_global_stats: false }", in_place)
    found, wanted = of_both(workers, both_ways, text, shape, seed, offset)
    assert close(found.out, wanted.out, 1 + abs(offset)) and close(found.diff, wanted.diff, 1 + abs(offset), GRADIENT)
    assert all(close(a, b, 1 + offset**2) for a, b in zip(found.blobs, wanted.blobs)) and len(wanted.blobs) == 3


@pytest.mark.parametrize("shape", [(128, 16, 32, 32), (2, 3, 100, 200), (100, 700), (1, 1, 1, 4097)])
def test_batch_norm_of_many_numbers(workers: Pair, shape: tuple[int, ...]) -> None:
    text = net_of("BatchNorm", shape, "batch_norm_param { use_global_stats: false }", True)
    found, wanted = of_both(workers, both_ways, text, shape, 1, 3.0)
    assert close(found.out, wanted.out, 4) and close(found.diff, wanted.diff, 4, GRADIENT)
    assert all(close(a, b, 10) for a, b in zip(found.blobs, wanted.blobs))


@EXAMPLES
@given(
    kind=st.sampled_from(
        [
            ("BatchNorm", ""),
            ("Scale", ""),
            ("Scale", "scale_param { bias_term: true }"),
            ("Bias", ""),
            ("Eltwise", "eltwise_param { operation: SUM }"),
            ("Eltwise", "eltwise_param { operation: SUM coeff: 1 coeff: -0.5 }"),
            ("Eltwise", "eltwise_param { operation: PROD }"),
            ("Eltwise", "eltwise_param { operation: MAX }"),
        ]
    ),
    shape=SHAPES,
    in_place=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_layers_of_loops(
    workers: Pair, kind: tuple[str, str], shape: tuple[int, ...], in_place: bool, seed: int
) -> None:
    in_place = in_place and kind[0] != "Eltwise"
    found, wanted = of_both(workers, both_ways, net_of(kind[0], shape, kind[1], in_place), shape, seed, 1.0)
    # Sums over a channel are as exact as what is added up.
    size = float(np.prod(shape)) ** 0.5
    assert close(found.out, wanted.out) and close(found.diff, wanted.diff)
    assert all(close(a, b) for a, b in zip(found.blobs, wanted.blobs))
    assert all(close(a, b, size) for a, b in zip(found.blob_diffs, wanted.blob_diffs))
