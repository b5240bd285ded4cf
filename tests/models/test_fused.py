"""Fused inference against the folded network in double precision, and what keeps it from changing results unseen."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrseg.models import HRNetV2, HRNetV2OCR, HRNetVariant, Segmenter, create_model, fold_batch_norm, optimize_for_cpu
from hrseg.models.fused import FusedBasicBlock, FusedConv2d, fuse_for_cpu, has_fused_convolutions
from hrseg.models.networks.hrnet import BasicBlock
from tests.networks import assert_close

VARIANT = HRNetVariant(6, blocks=2, modules=(1, 1, 1), layer1_blocks=2, layer1_width=4)


def lively(network: Segmenter) -> Segmenter:
    """Sets running statistics by a few batches, and evaluation mode."""
    for _ in range(2):
        network(torch.randn(2, 3, 64, 64))
    return network.eval()


@pytest.fixture(scope="module")
def network() -> Segmenter:
    torch.manual_seed(0)
    return lively(HRNetV2(VARIANT, num_classes=5, init="kaiming", bn_momentum=0.5))


def images_of(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def assert_fused_equals(network: Segmenter, *sizes: tuple[int, int], tolerance: float = 2e-5) -> Segmenter:
    """Compares with the network as it was built, in double precision; returns the fused one."""
    ours = fuse_for_cpu(fold_batch_norm(network)).to(memory_format=torch.channels_last)
    reference = copy.deepcopy(network).double()
    for height, width in sizes:
        images = images_of(height, width)
        for name, expected in reference.outputs(images.double()).items():
            for given in (images, images.contiguous(memory_format=torch.channels_last)):
                assert_close(ours.outputs(given)[name], expected, tolerance)
    return ours


def calls_of(network: nn.Module) -> list[str]:
    """The operations of a forward pass on the CPU, by name."""
    with torch.inference_mode(), torch.profiler.profile() as profile:
        network(images_of(64, 64))
    return [event.name for event in profile.events()]


def test_torch_has_the_calls_as_expected() -> None:
    """Fails if a release of torch changes the calls, with which inference on CPUs would silently be slower."""
    assert has_fused_convolutions(torch.float32)


def test_changed_calls_are_noticed(monkeypatch: pytest.MonkeyPatch, network: Segmenter) -> None:
    def fails(*_: object) -> Tensor:
        raise RuntimeError("expected other arguments")

    for replacement in (fails, lambda self, x: F.conv2d(x, self.weight, self.bias, padding=self.padding) + 1):
        has_fused_convolutions.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(FusedConv2d, "call", replacement)
            assert not has_fused_convolutions(torch.float32)
            assert_fused_equals(network, (64, 96))  # in separate steps
        has_fused_convolutions.cache_clear()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("fuse_mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("head_kernel", [1, 3])
def test_hrnetv2(fuse_mode: str, align_corners: bool, head_kernel: int) -> None:
    torch.manual_seed(0)
    network = HRNetV2(
        VARIANT, 5, fuse_mode=fuse_mode, align_corners=align_corners, bn_momentum=0.5, head_kernel=head_kernel
    )
    assert_fused_equals(lively(network), (64, 96), (45, 33), (1, 7))


@pytest.mark.parametrize(
    "name",
    [
        "hrnetv1_w18_small_v1",
        "hrnetv2_w18_small_v1_psa_s",
        "hrnetv2_w18_small_v1_ocr",
        "hrnetv2_w18_small_v1_psa_p_ocr_hmsa",
        "hrformer_t_ocr",
    ],
)
def test_other_networks(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name, num_classes=4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    assert_fused_equals(lively(network), (61, 80), tolerance=1e-4)


def test_leaky_activations_stay() -> None:
    torch.manual_seed(0)
    leaky = HRNetV2OCR(VARIANT, 5, mid_channels=8, key_channels=4, inner_bias=True, negative_slope=0.1, bn_momentum=0.5)
    assert_fused_equals(lively(leaky), (61, 80))


def test_networks_trained_on_a_cpu(network: Segmenter) -> None:
    """`SegmentationTask` swaps their layers for those of `optimize_for_cpu`."""
    assert_fused_equals(optimize_for_cpu(copy.deepcopy(network)), (45, 33))


def test_sums_and_activations_take_no_passes_of_their_own(network: Segmenter) -> None:
    folded = fold_batch_norm(network)
    before, after = calls_of(folded), calls_of(fuse_for_cpu(copy.deepcopy(folded)))
    convolutions = sum(isinstance(module, nn.Conv2d) for module in folded.modules())
    assert sum(name.startswith("mkldnn::_convolution") for name in after) == convolutions + 3  # the head's is split
    assert sum(name == "aten::relu_" for name in after) == 3  # the finest sum of each of the three modules
    assert sum(name == "aten::relu_" for name in before) > 30


def test_inputs_are_not_overwritten(network: Segmenter) -> None:
    ours = fuse_for_cpu(fold_batch_norm(network)).to(memory_format=torch.channels_last)
    images = images_of(64, 64).contiguous(memory_format=torch.channels_last)
    kept = images.clone()
    with torch.inference_mode():
        expected = ours(images)
        assert torch.equal(ours(images), expected)
        block = ours.get_submodule("stage2.0.branches.0.0")
        x = torch.randn(1, 6, 8, 8).contiguous(memory_format=torch.channels_last)
        before = x.clone()
        block(x)
        assert torch.equal(x, before)
    assert torch.equal(images, kept)


@pytest.mark.skipif(not has_fused_convolutions(torch.bfloat16), reason="oneDNN has no bfloat16 on this CPU")
def test_bfloat16(network: Segmenter) -> None:
    ours = fuse_for_cpu(fold_batch_norm(network)).to(torch.bfloat16).to(memory_format=torch.channels_last)
    images = images_of(64, 96)
    with torch.inference_mode():
        assert_close(ours(images.bfloat16()).float(), network(images), 0.1)
    assert "mkldnn::_convolution_pointwise" in calls_of(copy.deepcopy(ours).float())


def test_copies_and_pickles(network: Segmenter) -> None:
    ours = fuse_for_cpu(fold_batch_norm(network))
    with torch.inference_mode():
        expected = ours(images_of(40, 56))
        for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            assert torch.equal(twin(images_of(40, 56)), expected)


def test_replaced_parts_and_subclasses_keep_their_computation(network: Segmenter) -> None:
    class Doubled(BasicBlock):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    other = copy.deepcopy(network)
    branches = other.get_submodule("stage3.0.branches")
    assert isinstance(branches, nn.ModuleList)
    torch.manual_seed(1)
    branches[0][1] = Doubled(6)
    branches[1][0].bn1 = nn.GroupNorm(2, 12)  # not folded
    branches[2][0].conv1 = nn.Conv2d(24, 24, 3, padding=1, padding_mode="circular")
    branches[2][1].conv2 = nn.Conv2d(24, 24, 3, padding="same")
    ours = assert_fused_equals(other.eval(), (45, 33))
    blocks = ours.get_submodule("stage3.0.branches")
    assert [type(branch[0]) for branch in blocks] == [FusedBasicBlock, BasicBlock, FusedBasicBlock]
    assert type(blocks[0][1]) is Doubled


def test_other_devices_compute_in_separate_steps(network: Segmenter) -> None:
    ours = fuse_for_cpu(fold_batch_norm(network)).to("meta")
    assert ours(images_of(64, 96).to("meta")).shape == (1, 5, 64, 96)
