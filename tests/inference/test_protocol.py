from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hrseg.errors import ConfigError, UnknownNameError
from hrseg.inference import Protocol, named_protocol
from tests.references import protocols

BLACK = np.array([-2.1, -2.0, -1.8])


class Stride4(nn.Module):
    """Logits at stride 4, each dependent on its neighbourhood."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.Tanh(), nn.Conv2d(8, 5, 5, 2, 2))
        self.double().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return 3 * self.layers(images)


@pytest.fixture
def network() -> Stride4:
    return Stride4()


def image(height: int, width: int) -> np.ndarray:
    # smooth, as photographs are: OpenCV rounds positions in some versions
    noise = np.random.default_rng(0).normal(size=(height // 8 + 2, width // 8 + 2, 3))
    return np.kron(noise, np.ones((8, 8, 1)))[:height, :width]


def tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]


def assert_equal(scores: Tensor, expected: np.ndarray) -> None:
    found = scores[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(found.argmax(2), expected.argmax(2))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(75, 100), (100, 66), (130, 130)])
def test_pascal_context_is_the_official_protocol(network: Stride4, size: tuple[int, int], flip: bool) -> None:
    pixels = image(*size)
    scales = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    protocol = Protocol(tuple(scales), 104, flip, "exp", (96, 96), (64, 64), windows_at_once=4)
    scores = protocol.scores(network, tensor(pixels), black=torch.from_numpy(BLACK).view(3, 1, 1))
    assert_equal(scores, protocols.base_protocol(network, pixels, scales, 104, (96, 96), BLACK, flip))


@pytest.mark.parametrize("flip", [False, True])
def test_cityscapes_is_the_official_protocol(network: Stride4, flip: bool) -> None:
    pixels = image(64, 128)
    scales = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    protocol = Protocol(
        tuple(scales), 128, flip, "exp", window=(64, 128), last_window="shift", whole_up_to=1.0, windows_at_once=3
    )
    scores = protocol.scores(network, tensor(pixels))
    assert_equal(scores, protocols.cityscapes_protocol(network, pixels, scales, 128, (64, 128), flip))


def test_lip_swaps_the_sides_in_the_mirrored_view(network: Stride4) -> None:
    pixels, swap = image(97, 61), [0, 2, 1, 4, 3]
    scores = named_protocol("lip").scores(network, tensor(pixels), flip_permutation=swap)
    assert_equal(scores, protocols.one_view(network, pixels, True, swap))
    assert not np.allclose(scores, named_protocol("lip").scores(network, tensor(pixels)))


def test_a_mirrored_view_has_its_sides_swapped_back() -> None:
    """The left class depends on pixels to the left, the right class on the mirror image of these."""

    class KnowsSides(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            grey = images.mean(1, keepdim=True)
            left = grey + 0.5 * nn.functional.pad(grey, (1, 0))[..., :-1]
            right = grey + 0.5 * nn.functional.pad(grey, (0, 1))[..., 1:]
            return torch.cat([grey.abs(), left, right], dim=1)

    images = torch.randn(2, 3, 40, 51, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = Protocol().scores(KnowsSides(), images)
    for fusion in ("logits", "softmax", "exp"):
        flipped = Protocol(flip=True, fusion=fusion).scores(KnowsSides(), images, flip_permutation=[0, 2, 1])
        assert torch.equal(flipped.argmax(1), plain.argmax(1))
    assert not torch.equal(Protocol(flip=True).scores(KnowsSides(), images).argmax(1), plain.argmax(1))


@pytest.mark.parametrize("fusion", ["logits", "softmax", "exp"])
def test_views_are_fused_as_named(network: Stride4, fusion: Any) -> None:
    images = tensor(image(64, 96))
    views = [Protocol(flip=False).scores(network, x) for x in (images, images.flip(-1))]
    logits = views[0], views[1].flip(-1)
    expected = {
        "logits": (logits[0] + logits[1]) / 2,
        "softmax": (logits[0].softmax(1) + logits[1].softmax(1)) / 2,
        "exp": ((logits[0] + logits[1]) / 2).exp(),
    }
    torch.testing.assert_close(Protocol(flip=True, fusion=fusion).scores(network, images), expected[fusion])


@pytest.mark.parametrize("fusion", ["logits", "softmax", "exp"])
def test_what_the_network_returns_is_not_overwritten(fusion: Any) -> None:
    logits = torch.randn(1, 3, 40, 40)  # of the images' size, and kept by the network
    kept = logits.clone()
    Protocol(flip=True, fusion=fusion).scores(lambda _: logits, torch.zeros(1, 3, 40, 40))
    scores = Protocol(fusion=fusion).scores(lambda _: logits, torch.zeros(1, 3, 40, 40))
    expected = {"logits": kept, "softmax": kept.softmax(1), "exp": kept.exp()}
    assert torch.equal(scores, expected[fusion])
    assert torch.equal(logits, kept)


def test_images_of_a_batch_are_independent(network: Stride4) -> None:
    images = torch.cat([tensor(image(70, 90)), -tensor(image(70, 90))])
    for protocol in (Protocol((0.5, 1.0, 2.0), flip=True), Protocol((1.0, 1.5), window=(48, 48), stride=(32, 32))):
        together = protocol.scores(network, images)
        apart = torch.cat([protocol.scores(network, one) for one in images.split(1)])
        torch.testing.assert_close(together, apart)


def test_whole_is_the_plain_forward_pass(network: Stride4) -> None:
    images = tensor(image(70, 90))
    assert named_protocol("whole").is_plain
    expected = nn.functional.interpolate(network(images), (70, 90), mode="bilinear")
    torch.testing.assert_close(named_protocol("whole").scores(network, images), expected)
    aligned = nn.functional.interpolate(network(images), (70, 90), mode="bilinear", align_corners=True)
    torch.testing.assert_close(Protocol().scores(network, images, align_corners=True), aligned)


def test_windows_are_as_large_as_crops() -> None:
    slide = named_protocol("slide", (520, 520))
    assert (slide.window, slide.stride, slide.scales) == ((520, 520), (346, 346), (1.0,))
    papers = named_protocol("pascal_context", (480, 480))
    assert (papers.window, papers.stride, papers.base_size, len(papers.scales)) == ((480, 480), (320, 320), 520, 7)
    with pytest.raises(ConfigError, match="slide takes windows of the crop size; give crop_size"):
        named_protocol("slide")


def test_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="unknown protocol 'cityscape'; did you mean cityscapes"):
        named_protocol("cityscape")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": ()}, r"scales is \(\); expected 1 to 64 numbers above 0"),
        ({"scales": (0.0,)}, r"scales is \(0.0,\)"),
        ({"base_size": 0}, "base_size is 0"),
        ({"fusion": "max"}, "fusion is 'max'; expected logits, softmax or exp"),
        ({"window": (16, 512)}, r"window is \(16, 512\); expected 32 or more per side"),
        (
            {"window": (10**9, 10**9)},
            "a window would have 1000000000x1000000000 pixels .* HRSEG_MAX_PIX",
        ),
        ({"stride": (16, 16)}, r"stride is \(16, 16\); expected 1 to the window's size, and a window"),
        ({"window": (32, 32), "stride": (33, 32)}, r"stride is \(33, 32\)"),
        ({"last_window": "crop"}, "last_window is 'crop'; expected pad or shift"),
        ({"windows_at_once": 0}, "windows_at_once is 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"protocol: {message}"):
        Protocol(**settings)


@pytest.mark.parametrize(
    ("protocol", "pixels"),
    [
        (Protocol(), 200 * 300),
        (Protocol((0.5, 2.0)), 400 * 600),
        (Protocol(window=(64, 400)), 64 * 300),
        (Protocol((0.5, 2.0), window=(64, 64), whole_up_to=1.0), 100 * 150),
    ],
)
def test_the_largest_view_of_an_image(protocol: Protocol, pixels: int) -> None:
    assert protocol.largest_view((200, 300)) == pixels


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("fusion", ["logits", "softmax", "exp"])
def test_probabilities_of_each_fusion(network: Stride4, fusion: Any, temperature: float) -> None:
    """Against the views one by one, in numpy: the softmax of mean logits, or of the logarithm of fused scores."""
    images, protocol = tensor(image(64, 96)), Protocol((0.5, 1.0, 1.5), flip=True, fusion=fusion)
    fused = {"logits": lambda z: z, "exp": np.exp, "softmax": lambda z: np.exp(z) / np.exp(z).sum(0)}[fusion]
    of_scales = []
    for scale in protocol.scales:
        view = nn.functional.interpolate(images, scale_factor=scale, mode="bilinear")
        maps = [Protocol().scores(network, x)[0].numpy() for x in (view, view.flip(-1))]
        logits = maps[0], maps[1][..., ::-1]
        mean = (fused(logits[0]) + fused(logits[1])) / 2 if fusion == "softmax" else fused((logits[0] + logits[1]) / 2)
        of_scales.append(nn.functional.interpolate(torch.from_numpy(mean)[None], (64, 96), mode="bilinear")[0].numpy())
    mean = np.mean(of_scales, 0)
    powers = np.exp((mean if fusion == "logits" else np.log(mean)) / temperature)
    scores = protocol.scores(network, images)
    before = scores.clone()
    found = protocol.probabilities(scores, temperature)
    np.testing.assert_allclose(found[0].numpy(), powers / powers.sum(0), rtol=1e-4)
    assert torch.equal(scores, before)  # which labels and losses are made of
    assert torch.equal(found.argmax(1), scores.argmax(1))


def test_probabilities_beyond_the_range_of_exponentials() -> None:
    logits = torch.tensor([[200.0, 3.0, -200.0], [-200.0, -201.0, -202.0], [200.0, 201.0, 0.0], [90.0, 80.0, 0.0]])
    maps = logits.T[None, :, :, None]  # four pixels of three classes
    scores = Protocol(fusion="exp").scores(lambda views: maps, torch.zeros(1, 3, 4, 1))
    found = Protocol(fusion="exp").probabilities(scores)[0, :, :, 0].T
    torch.testing.assert_close(found[0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(found[1], torch.full((3,), 1 / 3))  # all vanish
    torch.testing.assert_close(found[2], torch.tensor([0.5, 0.5, 0.0]))  # both overflow
    assert found[3, 0] > 0.999
    assert torch.equal(found.argmax(1), scores[0, :, :, 0].T.argmax(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_of_half_precision_are_float32(dtype: torch.dtype) -> None:
    scores = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = Protocol().probabilities(scores, 0.5)
    torch.testing.assert_close(found, (scores.float() / 0.5).softmax(1))
