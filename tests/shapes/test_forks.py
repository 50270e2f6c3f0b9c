"""Shapes of layers that only forks of Caffe have, worked out by hand from the forks' sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.errors import NetworkError
from tests.caffe_io.test_variants import conv, layer, read

pytestmark = pytest.mark.caffe
INPUT = (
    'layer { name: "in" type: "Input" top: "x" top: "y" top: "s" top: "r" input_param { shape { dim: [2, 8, 10, 12] } '
    "shape { dim: [2, 8, 5, 6] } shape { dim: [2, 8, 1, 1] } shape { dim: [300, 5] } } }\n"
)


def shape(folder: Path, kind: str, bottoms: str, param: str = "") -> tuple[int, ...]:
    """Shape of the top of a layer."""
    return read(folder, INPUT + layer("t", kind, bottoms, param))[1].shape_of("t")


@pytest.mark.parametrize(
    ("kind", "bottoms", "param", "wanted"),
    [
        ("BN", "x", "bn_param { bn_mode: INFERENCE }", (2, 8, 10, 12)),
        ("ReLU6", "x", "", (2, 8, 10, 12)),
        ("Normalize", "x", "norm_param { across_spatial: false }", (2, 8, 10, 12)),
        ("ShuffleChannel", "x", "shuffle_channel_param { group: 2 }", (2, 8, 10, 12)),
        ("Axpy", "s x y", "", (2, 8, 5, 6)),
        ("Permute", "x", "permute_param { order: 0 order: 2 order: 3 order: 1 }", (2, 10, 12, 8)),
        ("Permute", "x", "permute_param { order: [2] }", (10, 2, 8, 12)),
        ("Interp", "x", "interp_param { height: 33 width: 65 }", (2, 8, 33, 65)),
        # 10 to 19 and 12 to 23: the corners stay where they are.
        ("Interp", "x", "interp_param { zoom_factor: 2 }", (2, 8, 19, 23)),
        ("Interp", "x", "interp_param { shrink_factor: 2 pad_end: -1 }", (2, 8, 5, 6)),
        ("Interp", "x y", "", (2, 8, 5, 6)),
        ("Upsample", "y x", "upsample_param { scale: 2 }", (2, 8, 10, 12)),
        ("Upsample", "y", "upsample_param { scale: 2 upsample_w: 11 upsample_h: 9 }", (2, 8, 9, 11)),
        # Six boxes for each place: one of min_size, one of max_size, and ratios 2, 1/2, 3, 1/3.
        ("PriorBox", "y x", "prior_box_param { min_size: 3 max_size: 6 aspect_ratio: 2 aspect_ratio: 3 flip: true }", (1, 2, 5 * 6 * 6 * 4)),
        ("PriorBox", "y x", "prior_box_param { min_size: 3 aspect_ratio: 1 aspect_ratio: 2 flip: false }", (1, 2, 5 * 6 * 2 * 4)),
        ("ROIPooling", "x r", "roi_pooling_param { pooled_w: 7 pooled_h: 6 spatial_scale: 0.0625 }", (300, 8, 6, 7)),
        ("PSROIPooling", "x r", "psroi_pooling_param { output_dim: 2 group_size: 2 }", (300, 2, 2, 2)),
        ("ConvolutionDepthwise", "x", "convolution_param { num_output: 8 kernel_size: 3 stride: 2 pad: 1 }", (2, 8, 5, 6)),
        ("DepthwiseConvolution", "x", "convolution_param { kernel_size: 3 group: 8 engine: CAFFE }", (2, 8, 8, 10)),
        # The positive parts and the negative ones.
        ("CReLU", "x", "", (2, 16, 10, 12)),
        ("Reorg", "x", "reorg_param { stride: 2 }", (2, 32, 5, 6)),
        ("Reorg", "x", "reorg_param { stride: 2 reverse: true }", (2, 2, 20, 24)),
        ("PixelShuffle", "x", "pixelshuffle_param { upscale_factor: 2 }", (2, 2, 20, 24)),
        ("ImResize", "x", "imresize_param { factor: 8 start_scale: 1 }", (2, 8, 80, 96)),
        ("ImResize", "x", "imresize_param { target_spatial_width: 30 target_spatial_height: 20 }", (2, 8, 20, 30)),
        ("Resample", "x", "resample_param { width: 9 height: 7 type: LINEAR }", (2, 8, 7, 9)),
        ("Resample", "x", "interp_param { zoom_factor: 2 }", (-1,)),
        ("Downsample", "x y", "", (2, 8, 5, 6)),
        ("ConvolutionRistretto", "x", "convolution_param { num_output: 4 kernel_size: 3 } quantization_param { bw_params: 8 }", (2, 4, 8, 10)),
        ("FcRistretto", "x", "inner_product_param { num_output: 7 }", (2, 7)),
        ("HardSwish", "x", "", (2, 8, 10, 12)),
        ("BroadcastMul", "x s", "", (2, 8, 10, 12)),
        ("DepthwiseDeconvolution", "x", "convolution_param { num_output: 8 kernel_size: 4 stride: 2 pad: 1 group: 8 }", (2, 8, 20, 24)),
    ],
)  # fmt: skip
def test_tops_of_known_forks(tmp_path: Path, kind: str, bottoms: str, param: str, wanted: tuple[int, ...]) -> None:
    assert shape(tmp_path, kind, bottoms, param) == wanted


@pytest.mark.parametrize(
    ("kind", "param", "words"),
    [
        ("Permute", "permute_param { order: 4 }", "axis 4"),
        ("Permute", "permute_param { order: 1 order: 1 }", "every axis can stand in it once"),
        ("Permute", "permute_param { order: x }", "no number"),
        ("Interp", "interp_param { zoom_factor: 0 }", "zoom_factor 0 must be at least 1"),
        ("Interp", "interp_param { height: nan width: 3 }", "height: a number is needed"),
        ("Interp", "interp_param { height: 99999999999 width: 3 }", "height: a number is needed"),
        ("PriorBox", "prior_box_param { min_size: 3 aspect_ratio: wide }", "aspect_ratio: a number is needed"),
        ("ROIPooling", "", "too few for its type"),
        ("Reorg", "reorg_param { stride: 4 }", "stride 4 does not divide 10x12"),
        ("PixelShuffle", "pixelshuffle_param { upscale_factor: 3 }", "8 channels are no multiple of 3 x 3"),
    ],
)
def test_wrong_parameters_are_refused(tmp_path: Path, kind: str, param: str, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        shape(tmp_path, kind, "x", param)


def test_what_is_in_place_is_as_large_whatever_its_type_is(tmp_path: Path) -> None:
    text = INPUT + layer("a", "MyGate", "x", top="x") + conv("c", "x") + layer("b", "MyOther", "c") + conv("d", "b")
    net, network = read(tmp_path, text)
    assert network["c"].has_weights and network["a"].top_shapes == ((2, 8, 10, 12),)
    assert not network["d"].has_weights
    assert describe(net, None, "n", {"b": (2, 5, 10, 12)})["d"].has_weights
