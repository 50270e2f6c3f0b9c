"""Where the chains of one matrix put strides, pads and dilations."""

from __future__ import annotations

from enc_caffe.decomposition import chain_of
from enc_caffe.form import Form, whole_chain
from enc_caffe.network import Convolution
from tests.decomposition.layers import conv

LAYER = conv(8, 4, (3, 5), 2, (2, 3), (1, 2), (1, 2), (9, 9))


def stages(name: str, placement: str = "exact") -> list[tuple[str, Convolution]]:
    """Endings of names and geometries of a chain of rank 3."""
    return [(s.suffix, s.convolution) for s in chain_of(LAYER, Form(name, (3,)), placement).stages]


def test_strides_pads_and_dilations_are_split() -> None:
    first, second = stages("spatial")
    assert first == ("_v", Convolution(6, (3, 1), (2, 1), (1, 0), (1, 1), 2, False))
    assert second == ("_h", Convolution(8, (1, 5), (1, 3), (0, 2), (1, 2), 2, True))
    (_, first), (_, second) = stages("spatial", "published")
    assert first.stride == (2, 3) and second.stride == (1, 1)
    (_, first), (_, second) = stages("channel")
    assert first == Convolution(6, (3, 5), (2, 3), (1, 2), (1, 2), 2, False)
    assert second == Convolution(8, (1, 1), groups=2)
    assert stages("channel", "published") == stages("channel")


def test_the_horizontal_half_first_is_its_mirror_image() -> None:
    first, second = stages("spatial_t")
    assert first == ("_h", Convolution(6, (1, 5), (1, 3), (0, 2), (1, 2), 2, False))
    assert second == ("_v", Convolution(8, (3, 1), (2, 1), (1, 0), (1, 1), 2, True))
    (_, first), (_, second) = stages("spatial_t", "published")
    assert first.stride == (2, 3) and second.stride == (1, 1)


def test_sizes_between_the_stages_and_macs_by_hand() -> None:
    # 9 x 9 images: (9 + 2 - 3) // 2 + 1 = 5 rows; (9 + 4 - 9) // 3 + 1 = 2 columns.
    assert whole_chain(LAYER).macs(LAYER) == 8 * 2 * 15 * 5 * 2
    vertical, horizontal = 6 * 2 * 3, 8 * 3 * 5
    assert chain_of(LAYER, Form("spatial", (3,))).outputs(LAYER) == [(5, 9), (5, 2)]
    assert chain_of(LAYER, Form("spatial", (3,))).macs(LAYER) == vertical * 5 * 9 + horizontal * 5 * 2
    assert chain_of(LAYER, Form("spatial_t", (3,))).outputs(LAYER) == [(9, 2), (5, 2)]
    assert chain_of(LAYER, Form("spatial_t", (3,))).macs(LAYER) == 6 * 2 * 5 * 9 * 2 + 8 * 3 * 3 * 5 * 2
    # Eq. 9: both halves at the layer's own output size.
    assert chain_of(LAYER, Form("spatial", (3,))).macs(LAYER, "paper") == (vertical + horizontal) * 5 * 2
    # With both strides on the first half of a 3x3 kernel both halves have the layer's own output size.
    layer = conv(8, 4, (3, 3), stride=(2, 2))
    made = chain_of(layer, Form("spatial", (3,)), "published")
    assert made.outputs(layer) == [(5, 4), (5, 4)]
    assert made.macs(layer) == made.macs(layer, "paper") == (3 * 4 * 3 + 8 * 3 * 3) * 5 * 4
