"""The ImageNet classifier against the published counts and timm's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hrseg.errors import ConfigError
from hrseg.models import VARIANTS, HRNetClassifier
from hrseg.models.complexity import count_multiply_adds
from tests.networks import TINY, assert_close, images_of, on_meta, parameters, shapes_of
from tests.references.hrnet_keys import SIZES, classification_shapes, random_weights

# parameters and keys, counted on the official code
CLASSIFIER_COUNTS = {
    "w18_small_v1": (13_187_464, 552),
    "w18_small_v2": (15_597_464, 990),
    "w18": (21_299_004, 1956),
    "w30": (37_712_220, 1956),
    "w32": (41_232_680, 1956),
    "w40": (57_557_160, 1956),
    "w44": (67_064_984, 1956),
    "w48": (77_469_864, 1956),
    "w64": (128_059_944, 1956),
}
SMALL = VARIANTS["w18_small_v1"]


@pytest.mark.parametrize("size", CLASSIFIER_COUNTS)
def test_counts_of_the_classifiers(size: str) -> None:
    shapes = classification_shapes(SIZES[f"hrnetv2_{size}"])
    learnt = (shape for name, shape in shapes.items() if name.endswith((".weight", ".bias")))
    assert (sum(map(math.prod, learnt)), len(shapes)) == CLASSIFIER_COUNTS[size]


# larger ones differ from the last only in width
@pytest.mark.parametrize("size", ["w18_small_v1", "w18_small_v2", "w18"])
def test_counts_names_and_shapes_of_the_classifier(size: str) -> None:
    network = on_meta(lambda: HRNetClassifier(VARIANTS[size]))
    assert (parameters(network), len(network.state_dict())) == CLASSIFIER_COUNTS[size]
    assert shapes_of(network) == classification_shapes(SIZES[f"hrnetv2_{size}"])


def test_published_multiply_adds() -> None:
    network = on_meta(lambda: HRNetClassifier(VARIANTS["w18_small_v1"]))
    count = count_multiply_adds(network, torch.empty(1, 3, 224, 224, device="meta"))
    assert count / 2**30 == pytest.approx(1.49, abs=0.005)


@pytest.mark.parametrize("size", ["w18_small_v1", "w18_small_v2"])
def test_names_and_logits_equal_timms(size: str) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(f"hrnet_{size.removesuffix('_v1')}").double()
    weights = random_weights(classification_shapes(SIZES[f"hrnetv2_{size}"]))
    theirs.load_state_dict(weights)
    ours = HRNetClassifier(VARIANTS[size]).double()
    assert list(shapes_of(ours).items()) == list(shapes_of(theirs).items())
    ours.load_state_dict(weights)
    images = images_of(2, 3, 32, 64)
    for training in (False, True):
        with torch.no_grad():
            logits = ours.train(training)(images)
            assert logits.shape == (2, 1000)
            assert_close(logits, theirs.train(training)(images), 1e-10)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.allclose(mine, other, rtol=1e-10, atol=1e-12)


def test_any_size_and_number_of_classes() -> None:
    network = HRNetClassifier(TINY, num_classes=7, in_channels=1).eval()
    for size in ((32, 32), (33, 47), (97, 65)):
        assert network(torch.randn(1, 1, *size)).shape == (1, 7)


def test_classifier_is_initialised_as_the_official_one() -> None:
    network = HRNetClassifier(SMALL)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.momentum == 0.1
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[:, 0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_arguments_out_of_range() -> None:
    with pytest.raises(ConfigError, match="num_classes is 0; expected a number from 1"):
        HRNetClassifier(TINY, num_classes=0)
    with pytest.raises(ConfigError, match="bn_momentum is 2; expected above 0"):
        HRNetClassifier(TINY, bn_momentum=2)
