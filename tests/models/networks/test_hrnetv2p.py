"""HRNetV2p against a plain second implementation, and in torchvision's detectors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hrseg.errors import ConfigError
from hrseg.models import VARIANTS, HRNetV2p
from tests.networks import TINY, assert_close, images_of, on_meta, shapes_of
from tests.references.hrnet_keys import SIZES, random_weights, segmentation_shapes, trunk_shapes
from tests.references.hrnet_plain import enlarge, hrnet_plain

SMALL = VARIANTS["w18_small_v1"]
SMALL_SIZES = SIZES["hrnetv2_w18_small_v1"]


@pytest.mark.parametrize("size", ["w18_small_v1", "w18_small_v2"])
def test_names_and_shapes_of_v2p(size: str) -> None:
    sizes = SIZES[f"hrnetv2_{size}"]
    expected = trunk_shapes(sizes) | {
        "reduction_conv.0.weight": (256, 15 * sizes.width, 1, 1),
        "reduction_conv.0.bias": (256,),
    }
    for level in range(5):
        expected |= {f"fpn_conv.{level}.weight": (256, 256, 3, 3), f"fpn_conv.{level}.bias": (256,)}
    assert shapes_of(on_meta(lambda: HRNetV2p(VARIANTS[size]))) == expected


@pytest.mark.parametrize("size", [(128, 64), (141, 75), (61, 64)])
def test_v2p_pools_averages(size: tuple[int, int]) -> None:
    network = HRNetV2p(SMALL).double().eval()
    weights = random_weights(segmentation_shapes(SMALL_SIZES, 5))
    network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("last_layer")}, strict=False)
    for convolution in (network.reduction_conv[0], *network.fpn_conv):
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        nn.init.normal_(convolution.bias)
    images = images_of(1, 3, *size)
    with torch.no_grad():
        maps, _ = hrnet_plain(images, weights, "nearest", False)
        height, width = maps[0].shape[2:]
        wide = torch.cat([enlarge(x, (height, width), "bilinear", False) for x in maps], 1)
        x = torch.einsum("oc,bchw->bohw", network.get_parameter("reduction_conv.0.weight")[:, :, 0, 0], wide)
        x += network.get_parameter("reduction_conv.0.bias")[:, None, None]
        pyramid = network(images)
        assert list(pyramid) == ["0", "1", "2", "3", "4"]
        for level, ours in enumerate(pyramid.values()):
            rows, columns, side = height // 2**level, width // 2**level, 2**level
            means = x[:, :, : rows * side, : columns * side].reshape(1, 256, rows, side, columns, side).mean((3, 5))
            weight = network.get_parameter(f"fpn_conv.{level}.weight")
            expected = F.conv2d(means, weight, network.get_parameter(f"fpn_conv.{level}.bias"), padding=1)
            assert ours.shape == (1, 256, rows, columns)
            assert_close(ours, expected, 1e-10)


def test_v2p_refuses_images_without_a_coarsest_map() -> None:
    network = HRNetV2p(TINY)
    with pytest.raises(ConfigError, match="height and width from 61"):
        network(torch.zeros(1, 3, 60, 64))
    assert network(torch.zeros(2, 3, 61, 61))["4"].shape == (2, 256, 1, 1)


@pytest.mark.parametrize("detector", ["FasterRCNN", "MaskRCNN"])
def test_v2p_trains_in_torchvision_detectors(detector: str) -> None:
    detection = pytest.importorskip("torchvision.models.detection", reason="torchvision is not installed")
    torch.manual_seed(0)
    backbone = HRNetV2p(TINY)
    few = {"rpn_post_nms_top_n_train": 20, "rpn_post_nms_top_n_test": 5, "box_batch_size_per_image": 4}
    model = getattr(detection, detector)(backbone, num_classes=3, min_size=64, max_size=96, **few)
    images = [torch.rand(3, 64, 80), torch.rand(3, 70, 64)]
    targets = []
    for image in images:
        masks = torch.zeros(2, *image.shape[1:], dtype=torch.uint8)
        masks[0, 5:40, 8:50] = 1
        masks[1, 20:60, 10:60] = 1
        boxes = torch.tensor([[8.0, 5.0, 50.0, 40.0], [10.0, 20.0, 60.0, 60.0]])
        targets.append({"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = model(images, targets)
    assert ("loss_mask" in losses) == (detector == "MaskRCNN")
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    before = backbone.conv1.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, backbone.conv1.weight)
    with torch.no_grad():
        for found in model.eval()(images):
            assert found["boxes"].shape == (len(found["scores"]), 4)


def test_v2p_is_initialised_as_the_detectors() -> None:
    network = HRNetV2p(VARIANTS["w18_small_v2"])
    assert network.head_names == ("reduction_conv", "fpn_conv")
    for name, fan in (("reduction_conv.0", 270), ("fpn_conv.3", 256 * 9)):
        assert network.get_parameter(f"{name}.weight").std().item() == pytest.approx(fan**-0.5, rel=0.02)
        assert (network.get_parameter(f"{name}.bias") == 0).all()
    fan_out = 144 * 9
    weight = network.get_parameter("stage4.0.branches.3.0.conv1.weight")
    assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


def test_arguments_out_of_range() -> None:
    with pytest.raises(ConfigError, match="bn_momentum is 2; expected above 0"):
        HRNetV2p(TINY, bn_momentum=2)
