"""HRNetV1 against the published counts and a plain second implementation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hrseg.errors import ConfigError
from hrseg.models import VARIANTS, HRNetV1
from hrseg.models.complexity import count_multiply_adds
from tests.networks import TINY, assert_close, images_of, on_meta, parameters, shapes_of
from tests.references.hrnet_keys import SIZES, random_weights, segmentation_shapes, trunk_shapes
from tests.references.hrnet_plain import enlarge, hrnet_plain

POSE_COUNTS = {"w32": 28_536_113, "w48": 63_595_745}  # parameters with 17 joints, counted on the official code
SMALL = VARIANTS["w18_small_v1"]
SMALL_SIZES = SIZES["hrnetv2_w18_small_v1"]


@pytest.mark.parametrize("size", POSE_COUNTS)
def test_counts_of_the_pose_networks(size: str) -> None:
    network = on_meta(lambda: HRNetV1(VARIANTS[size], num_classes=17))
    assert parameters(network) == POSE_COUNTS[size]
    assert len(network.state_dict()) == 1754
    sizes = SIZES[f"hrnetv2_{size}"]
    expected = trunk_shapes(sizes) | {"final_layer.weight": (17, sizes.width, 1, 1), "final_layer.bias": (17,)}
    coarser = tuple(f"stage4.2.fuse_layers.{target}." for target in (1, 2, 3))
    assert shapes_of(network) == {name: shape for name, shape in expected.items() if not name.startswith(coarser)}


@pytest.mark.parametrize("fuse_mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_v1_is_a_convolution_on_the_finest_map(fuse_mode: str, align_corners: bool) -> None:
    network = HRNetV1(SMALL, num_classes=5, fuse_mode=fuse_mode, align_corners=align_corners)
    # the plain implementation makes all maps and the other head
    weights = random_weights(segmentation_shapes(SMALL_SIZES, 5))
    head = {"final_layer.weight": torch.randn(5, 16, 1, 1), "final_layer.bias": torch.randn(5)}
    network.load_state_dict({name: (weights | head)[name] for name in network.state_dict()})
    network.double().eval()
    images = images_of(2, 3, 45, 64)
    with torch.no_grad():
        (finest, *_), _ = hrnet_plain(images, weights, fuse_mode, align_corners)
        expected = torch.einsum("kc,bchw->bkhw", head["final_layer.weight"][:, :, 0, 0].double(), finest)
        expected += head["final_layer.bias"].double()[:, None, None]
        assert len(network.features(images)) == 1
        assert_close(network.features(images)[0], finest, 1e-10)
        assert_close(network.outputs(images)["out"], expected, 1e-10)
        assert_close(network(images), enlarge(expected, (45, 64), "bilinear", align_corners), 1e-10)


def test_v1_is_initialised_as_the_pose_network() -> None:
    network = HRNetV1(SMALL, num_classes=17, init="official")
    assert network.head_names == ("final_layer",)
    weights = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.001, rel=0.01)
    assert (network.get_parameter("final_layer.bias") == 0).all()


@pytest.mark.slow
def test_published_multiply_adds() -> None:
    network = on_meta(lambda: HRNetV1(VARIANTS["w32"], num_classes=17))
    count = count_multiply_adds(network, torch.empty(1, 3, 256, 192, device="meta"))
    assert count / 2**30 == pytest.approx(7.1, abs=0.05)


def test_arguments_out_of_range() -> None:
    with pytest.raises(ConfigError, match="num_classes is 0; expected a number from 1"):
        HRNetV1(TINY, num_classes=0)
