from __future__ import annotations

import json
import random
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest

from hrseg.data.transforms import BrightnessShift, HorizontalFlip, RandomScaleCrop, nearest_window, resized_window
from hrseg.utils.images import read_image, read_label
from hrseg.utils.resize import scaled_to
from tests.references import resize as reference

# OpenCV 5 interpolates at exact positions; before, it rounded them to 1/32 of a pixel
TOLERANCE = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 9


def noise(height: int, width: int, channels: int | None = None, high: int = 256) -> np.ndarray:
    shape = (height, width) if channels is None else (height, width, channels)
    return np.random.default_rng(height * width).integers(0, high, shape, dtype=np.uint8)


def seeded(transform: A.BasicTransform | A.BaseCompose, seed: int) -> A.BasicTransform | A.BaseCompose:
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return transform


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((1024, 2048), 0.6, (615, 1229)),
        ((1024, 2048), 1.1, (1127, 2253)),
        ((1024, 2048), 1.6, (1639, 3277)),
        ((1024, 2048), 2.1, (2151, 4301)),
        ((2048, 1024), 0.6, (1229, 615)),
    ],
)
def test_scaled_sizes_equal_those_of_the_official_code(
    size: tuple[int, int], scale: float, expected: tuple[int, int]
) -> None:
    assert scaled_to(size, 2048, scale) == expected


def test_every_scale_of_the_official_distribution_gives_the_official_size() -> None:
    crop = RandomScaleCrop((32, 32), 2048)
    for size in [(1024, 2048), (375, 500), (500, 333), (333, 500), (7, 7)]:
        for base_size in (2048, 520, 473, 961):
            crop.base_size = base_size
            seen = {crop.get_params_dependent_on_data({"shape": (*size, 3)}, {})["scaled_size"] for _ in range(400)}
            official = {reference.scaled_size(*size, base_size, 0.5 + step / 10.0) for step in range(17)}
            assert seen == official


def test_without_base_size_scale_one_is_the_image_s_own_size() -> None:
    assert scaled_to((375, 500), None, 1.0) == (375, 500)
    assert scaled_to((375, 500), None, 0.5) == (188, 250)
    assert scaled_to((1, 1000), None, 0.5) == (1, 500)


@pytest.mark.parametrize("scaled_size", [(20, 30), (60, 91), (41, 67), (13, 90), (83, 140), (40, 60)])
def test_a_window_equals_a_crop_of_the_whole_resized_image(scaled_size: tuple[int, int]) -> None:
    image, label = noise(40, 60, 3), noise(40, 60)
    exact = reference.bilinear(image, scaled_size)
    whole_label = reference.nearest(label, scaled_size)
    rng = np.random.default_rng(0)
    for size in [(16, 24), (50, 50), (1, 1)]:
        for _ in range(20):
            corner = tuple(int(rng.integers(0, max(1, n - s + 1))) for n, s in zip(scaled_size, size, strict=True))
            area = tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))
            window = resized_window(image, scaled_size, corner, size)
            assert np.abs(window - exact[area]).max() <= TOLERANCE
            np.testing.assert_array_equal(nearest_window(label, scaled_size, corner, size), whole_label[area])


@pytest.mark.parametrize(
    "scaled_size", [(512, 1024), (615, 1229), (819, 1638), (1127, 2253), (2151, 4301), (717, 1434)]
)
def test_windows_of_a_full_frame_agree_with_opencv(scaled_size: tuple[int, int]) -> None:
    image, label = noise(1024, 2048, 3), noise(1024, 2048)
    whole = cv2.resize(image, scaled_size[::-1], interpolation=cv2.INTER_LINEAR)
    whole_label = cv2.resize(label, scaled_size[::-1], interpolation=cv2.INTER_NEAREST)
    for corner in [(0, 0), (scaled_size[0] - 400, scaled_size[1] - 700), (57, 201)]:
        area = np.s_[corner[0] : corner[0] + 400, corner[1] : corner[1] + 700]
        window = resized_window(image, scaled_size, corner, (400, 700))
        assert np.abs(window.astype(int) - whole[area]).max() <= TOLERANCE
        np.testing.assert_array_equal(nearest_window(label, scaled_size, corner, (400, 700)), whole_label[area])


def test_nearest_indices_are_opencv_s_for_every_length() -> None:
    """The floating-point rounding matters at few lengths only, such as 1/(m/n) just below a whole step."""
    for length in (7, 60, 333, 1024):
        row = np.arange(length, dtype=np.uint16)[None].astype(np.float32)
        for scaled in range(1, 2 * length, 1 + length // 40):
            expected = cv2.resize(row, (scaled, 1), interpolation=cv2.INTER_NEAREST)
            np.testing.assert_array_equal(nearest_window(row, (1, scaled), (0, 0), (1, scaled)), expected)


@pytest.mark.parametrize("size", [(40, 70), (70, 40), (50, 50)])
def test_scale_crop_equals_resize_then_pad_then_crop(size: tuple[int, int]) -> None:
    image, label = noise(*size, 3), noise(*size, high=19)
    crop = RandomScaleCrop((48, 64), base_size=80, scale_range=(0.5, 2.0))
    for seed in range(30):
        result = seeded(crop, seed)(image=image, mask=label)
        params = crop.get_applied_params()
        exact = np.rint(reference.bilinear(image, params["scaled_size"])).astype(np.uint8)
        expected = reference.padded_crop(exact, params["corner"], (48, 64), 0)
        assert result["image"].shape == (48, 64, 3)
        assert result["image"].dtype == np.uint8
        assert np.abs(result["image"].astype(int) - expected).max() <= TOLERANCE
        whole_label = reference.nearest(label, params["scaled_size"])
        np.testing.assert_array_equal(
            result["mask"], reference.padded_crop(whole_label, params["corner"], (48, 64), 255)
        )


def test_scale_one_copies_pixels_exactly() -> None:
    image, label = noise(64, 96, 3), noise(64, 96)
    crop = RandomScaleCrop((32, 48), 96, scale_range=(1.0, 1.0))
    result = seeded(crop, 3)(image=image, mask=label)
    top, left = crop.get_applied_params()["corner"]
    np.testing.assert_array_equal(result["image"], image[top : top + 32, left : left + 48])
    np.testing.assert_array_equal(result["mask"], label[top : top + 32, left : left + 48])


def test_scales_are_uniform_and_windows_reach_every_border() -> None:
    crop = seeded(RandomScaleCrop((32, 32), 100), 0)
    drawn = [crop.get_params_dependent_on_data({"shape": (50, 100, 3)}, {}) for _ in range(6000)]
    widths, numbers = np.unique([params["scaled_size"][1] for params in drawn], return_counts=True)
    assert widths.tolist() == list(range(50, 220, 10))
    assert np.abs(numbers / len(drawn) - 1 / 17).max() < 0.012
    at_scale_one = [params["corner"] for params in drawn if params["scaled_size"] == (50, 100)]
    assert {top for top, _ in at_scale_one} == set(range(50 - 32 + 1))
    assert {left for _, left in at_scale_one} >= {0, 100 - 32}


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_a_window_is_centred_as_far_as_the_borders_allow(scale: float) -> None:
    crop = seeded(RandomScaleCrop((32, 48), None, (scale, scale)), 0)
    height, width = 100, 200
    for centre in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.2, 0.75)):
        params = crop.get_params_dependent_on_data({"shape": (height, width, 3)}, {"centre": centre})
        for axis, crop_length in enumerate((32, 48)):
            length = params["scaled_size"][axis]
            wanted = centre[axis] * length - crop_length / 2
            assert params["corner"][axis] == pytest.approx(np.clip(wanted, 0, max(0, length - crop_length)), abs=0.5)


def test_the_aspect_ratio_is_uniform_and_the_area_is_kept() -> None:
    crop = seeded(RandomScaleCrop((32, 32), 400, (1.0, 1.0), aspect_range=(0.9, 1.1)), 0)
    sizes = np.array(
        [crop.get_params_dependent_on_data({"shape": (50, 100, 3)}, {})["scaled_size"] for _ in range(4000)]
    )
    factors = sizes[:, 1] / sizes[:, 0] / 2
    assert (factors.min(), factors.max()) == pytest.approx((0.9, 1.1), abs=0.01)
    assert np.histogram(factors, 4, (0.9, 1.1))[0] / len(factors) == pytest.approx([0.25] * 4, abs=0.03)
    assert sizes.prod(1) / (200 * 400) == pytest.approx(np.ones(len(sizes)), abs=0.005)


def test_flip_swaps_left_and_right_classes() -> None:
    label = np.array([[0, 1, 2], [3, 255, 1]], np.uint8)
    flipped = HorizontalFlip(((1, 2),), p=1.0)(image=noise(2, 3, 3), mask=label)
    np.testing.assert_array_equal(flipped["image"], noise(2, 3, 3)[:, ::-1])
    np.testing.assert_array_equal(flipped["mask"], [[1, 2, 0], [2, 255, 3]])


def test_flip_without_pairs_and_twice_is_the_identity() -> None:
    label = noise(5, 8, high=20)
    np.testing.assert_array_equal(HorizontalFlip(p=1.0)(image=noise(5, 8, 3), mask=label)["mask"], label[:, ::-1])
    flip = HorizontalFlip(((14, 15), (16, 17)), p=1.0)
    np.testing.assert_array_equal(flip(**flip(image=noise(5, 8, 3), mask=label))["mask"], label)


def test_flip_agrees_with_the_mirrored_labels_of_cihp(shared_data: Path) -> None:
    flip = HorizontalFlip(((14, 15), (16, 17), (18, 19)), p=1.0)
    originals = sorted((shared_data / "cihp/labels").glob("*.png"))
    assert len(originals) == 4
    for path in originals:
        label = read_label(path)
        flipped = flip(image=np.zeros((*label.shape, 3), np.uint8), mask=label)["mask"]
        np.testing.assert_array_equal(flipped, read_label(shared_data / "cihp/labels_rev" / path.name))


def test_scale_crop_on_a_genuine_frame(shared_data: Path) -> None:
    image = read_image(min((shared_data / "cityscapes/leftImg8bit/train").rglob("*.png")))
    label = read_label(min((shared_data / "cityscapes/gtFine/train").rglob("*labelIds.png")))
    crop = RandomScaleCrop((512, 1024), 2048)
    for seed in range(8):
        result = seeded(crop, seed)(image=image, mask=label)
        params = crop.get_applied_params()
        size = params["scaled_size"][::-1]
        whole = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        whole_label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        expected = reference.padded_crop(whole, params["corner"], (512, 1024), 0)
        assert np.abs(result["image"].astype(int) - expected).max() <= TOLERANCE
        np.testing.assert_array_equal(
            result["mask"], reference.padded_crop(whole_label, params["corner"], (512, 1024), 255)
        )


def test_they_compose_with_albumentations_and_survive_serialisation() -> None:
    pipeline = A.Compose(
        [
            RandomScaleCrop((32, 48), base_size=60, scale_range=(0.5, 1.5), scale_step=0.25, ignore_index=254),
            HorizontalFlip(((1, 2),)),
            BrightnessShift(20),
            A.ColorJitter(p=1.0),
            A.OneOf([A.GaussNoise(p=1.0), A.GaussianBlur(p=1.0)]),
        ]
    )
    rebuilt = A.from_dict(json.loads(json.dumps(A.to_dict(pipeline))))
    assert A.to_dict(rebuilt) == A.to_dict(pipeline)
    for seed in range(5):
        one = seeded(pipeline, seed)(image=noise(40, 60, 3), mask=noise(40, 60, high=4))
        two = seeded(rebuilt, seed)(image=noise(40, 60, 3), mask=noise(40, 60, high=4))
        for name in ("image", "mask"):
            np.testing.assert_array_equal(one[name], two[name])


def test_brightness_shifts_are_uniform_up_to_the_limit() -> None:
    shift = seeded(BrightnessShift(10), 0)
    pixel = np.array([[[3, 100, 250]]], np.uint8)
    results = [shift(image=pixel, mask=pixel[..., 0]) for _ in range(4000)]
    assert all(np.array_equal(result["mask"], pixel[..., 0]) for result in results)
    changes = [int(result["image"][0, 0, 1]) - 100 for result in results]
    expected = [np.clip(pixel.astype(int) + change, 0, 255) for change in changes]
    np.testing.assert_array_equal([result["image"] for result in results], expected)
    numbers = np.bincount(np.array(changes) + 10, minlength=21)
    share = np.full(21, 0.5 / 21)
    share[10] += 0.5
    assert numbers / len(results) == pytest.approx(share, abs=0.02)
