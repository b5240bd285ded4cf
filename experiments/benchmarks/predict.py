"""`hrseg predict` of image files, from PNG to label maps and overlays."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from experiments.benchmarks.interleaved import HRSEG, Row, compare, time_interleaved, torch_threads
from hrseg import CITYSCAPES, StreetScenesDataModule
from hrseg.errors import DataNotFoundError
from hrseg.inference import Predictor, write_prediction
from hrseg.inference.image_files import predict_files
from hrseg.models import create_model
from hrseg.utils.images import images_below, read_image

SERIAL = "reads one image ahead, writes before the next"
ALONE = "network alone, images in memory"

_KEPT = 8  # images in memory


def measure_predict(
    repeats: int = 10,
    threads: int = 2,
    images: Path | None = None,
    size: tuple[int, int] = (512, 1024),
    name: str = "hrnetv2_w18",
    frames: int = 100,
) -> list[Row]:
    """Measures images per second from files to files, against a plain loop, and against the network alone.

    Args:
        repeats: Number of rounds.
        threads: Intra-op threads of PyTorch.
        images: Folder of images; None generates 8 street scenes.
        size: (height, width) of the generated scenes.
        name: The network, with random weights.
        frames: Number of images, at most.

    Raises:
        DataNotFoundError: The folder holds no images.
    """
    torch.manual_seed(0)
    predictor = Predictor(create_model(name, CITYSCAPES.num_classes), CITYSCAPES)
    with TemporaryDirectory() as folder, torch_threads(threads):
        files = files_of(images, Path(folder) / "scenes", size, frames)
        kept = [read_image(path) for path in islice(files.values(), _KEPT)]
        ours, serial = Path(folder) / "ours", Path(folder) / "serial"

        def overlapping() -> None:
            assert not any(predict_files(predictor, files, ours))

        def alone() -> None:
            for index in range(len(files)):
                predictor(kept[index % len(kept)])

        sides = {HRSEG: overlapping, SERIAL: lambda: _one_by_one(predictor, files, serial), ALONE: alone}
        costs = time_interleaved(sides, repeats)
        _require_same_files(ours, serial)
    height, width = kept[0].shape[:2]
    return [
        replace(row, value=len(files) / row.value, unit="images/s")
        for row in compare("predict", f"{name}, {len(files)} images {height}x{width}", costs, {})
    ]


def files_of(images: Path | None, folder: Path, size: tuple[int, int], frames: int) -> dict[str, Path]:
    """Images of a folder, by name, without label maps; None generates street scenes into `folder`."""
    if images is None:
        images = folder
        StreetScenesDataModule(folder, 1, size, size, 1, num_val=6, num_test=1, num_workers=0).prepare_data()
    labels = ("_labelIds", "_instanceIds", "_labelTrainIds", "_color")
    files = {name: path for name, path in images_below(images).items() if not name.endswith(labels)}
    if not files:
        raise DataNotFoundError(f"no image in {images}")
    return dict(islice(files.items(), frames))


def _one_by_one(predictor: Predictor, files: Mapping[str, Path], output: Path) -> None:
    names = list(files)
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(read_image, files[names[0]])
        for name, after in zip(names, [*names[1:], None], strict=True):
            pixels = following.result()
            if after is not None:
                following = reader.submit(read_image, files[after])
            write_prediction(output, name, pixels, predictor(pixels), predictor.labels)


def _require_same_files(one: Path, other: Path) -> None:
    names = [path.relative_to(one) for path in sorted(one.rglob("*.png"))]
    assert names == [path.relative_to(other) for path in sorted(other.rglob("*.png"))]
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
