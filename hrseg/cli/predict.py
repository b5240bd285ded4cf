"""`hrseg predict`: a split of a data set, or any images with `--images`."""

from __future__ import annotations

import glob
import importlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hrseg.cli import one_line
from hrseg.cli.config_errors import as_config_error
from hrseg.cli.options import OptionParser
from hrseg.errors import ConfigError, DataFileError, DataNotFoundError, UnknownNameError
from hrseg.files import require_writable
from hrseg.images import IMAGE_SUFFIXES, read_image
from hrseg.progress import track_progress

if TYPE_CHECKING:
    from hrseg.data.labels import LabelTable
    from hrseg.inference import Predictor

# --labels -> module and name of the table, and the size to which its networks squash all images
LABELS: dict[str, tuple[str, str, tuple[int, int] | None]] = {
    "cityscapes": ("cityscapes", "CITYSCAPES", None),
    "pascal_context_59": ("pascal_context", "PASCAL_CONTEXT_59", None),
    "pascal_context_60": ("pascal_context", "PASCAL_CONTEXT_60", None),
    "lip": ("lip", "LIP", (473, 473)),
    "camvid": ("camvid", "CAMVID", None),
}


def run(verb: str, arguments: Sequence[str]) -> int:
    """Predicts images without a data module if `--images` is given, else a data module's split through Lightning."""
    wants_help = bool({"-h", "--help"} & set(arguments))
    if not any(argument.split("=")[0] == "--images" for argument in arguments):
        if wants_help:
            print("For any images: hrseg predict --images --help. For a split of a data set:\n", flush=True)
        return int(importlib.import_module("hrseg.cli.lightning").run(verb, arguments))
    parser = OptionParser(
        prog="hrseg predict",
        description="Write label ids (labels/NAME.png) and colours with a legend (overlays/NAME.png) of any images.",
    )
    parser.add_argument("--images", required=True, nargs="+", help="files, folders (with all below them), or globs")
    parser.add_argument(
        "--ckpt_path",
        required=True,
        help="best.ckpt or last.ckpt of a run; with --labels, weights of any code base, or a name that "
        "`hrseg weights list` shows",
    )
    parser.add_argument("--labels", help=f"the classes of weights that are of no run: {', '.join(LABELS)}")
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="folder to write to (%(default)s)")
    parser.add_argument("--device", help="such as cuda:1 or cpu; the GPU by default, if there is one")
    parser.add_argument("--protocol", help="whole, slide, cityscapes, ...; what the run is tested with by default")
    options = parser.parse_args(["--help"] if wants_help else arguments)
    images = find_images(options.images)
    if options.labels not in (None, *LABELS):
        raise UnknownNameError("labels", options.labels, LABELS)

    from hrseg.inference import Predictor, write_prediction  # torch: only once the input is known to be there

    with as_config_error():
        if options.labels is None:
            predictor = Predictor.from_checkpoint(options.ckpt_path, options.device, options.protocol)
        else:
            predictor = _of_weights(options.ckpt_path, options.labels, options.device, options.protocol or "whole")
    require_writable(options.output)
    left_out: list[str] = []
    for name, pixels in track_progress(_read_ahead(images), "predicting", len(images)):
        if isinstance(pixels, DataFileError):
            left_out.append(str(pixels))
            continue
        try:
            prediction = predictor(pixels)
        except ConfigError as error:  # too small for the network
            left_out.append(f"{images[name]}: {error}")
            continue
        write_prediction(options.output, name, pixels, prediction, predictor.labels)
    print(f"{len(images) - len(left_out)} of {len(images)} images predicted")
    print(f"label ids: {options.output / 'labels'}\noverlays: {options.output / 'overlays'}")
    for reason in left_out:
        print(f"left out: {one_line(reason)}", file=sys.stderr)
    return 1 if left_out else 0


def _of_weights(source: str, labels: str, device: str | None, protocol: str) -> Predictor:
    """A predictor with ImageNet's mean and deviation, as all code bases have them whose weights we know."""
    from hrseg.inference import Predictor, named_protocol
    from hrseg.models import create_model

    module, name, input_size = LABELS[labels]
    table: LabelTable = getattr(importlib.import_module(f"hrseg.data.{module}"), name)
    network = create_model(from_file=source)
    classes = getattr(network, "num_classes", None)
    if classes != table.num_classes:
        raise ConfigError(f"{source} has {classes} classes, {table.name} has {table.num_classes}; give other --labels")
    return Predictor(network, table, device=device, protocol=named_protocol(protocol), input_size=input_size)


def find_images(places: Sequence[str]) -> dict[str, Path]:
    """Files to predict, by the name that their output gets: the path below the folder given, without its suffix.

    Raises:
        DataNotFoundError: A place holds no image, or two images would get the same name.
    """
    images: dict[str, Path] = {}
    for place in places:
        folder = Path(place)
        if folder.is_dir():
            files = {path: path.relative_to(folder) for path in sorted(folder.rglob("*"))}
        else:
            files = {path: Path(path.name) for path in map(Path, sorted(glob.glob(place, recursive=True)))}
        files = {path: name for path, name in files.items() if path.suffix.lower() in IMAGE_SUFFIXES}
        if not files:
            raise DataNotFoundError(
                f"no image at {place}; expected a file, folder or glob of {' '.join(IMAGE_SUFFIXES)}"
            )
        for path, relative in files.items():
            name = relative.with_suffix("").as_posix()
            if name in images:
                raise DataNotFoundError(
                    f"{path} and {images[name]} would both be written as {name}.png; predict them apart"
                )
            images[name] = path
    return images


def _read_ahead(images: dict[str, Path]) -> Iterator[tuple[str, np.ndarray | DataFileError]]:
    """Reads the next image while the one before is in use; two are in memory at any time."""

    def read(path: Path) -> np.ndarray | DataFileError:
        try:
            return read_image(path)
        except DataFileError as error:
            return error

    with ThreadPoolExecutor(1) as reader:
        coming: tuple[str, Future[np.ndarray | DataFileError]] | None = None
        for name, path in images.items():
            ready, coming = coming, (name, reader.submit(read, path))
            if ready:
                yield ready[0], ready[1].result()
        if coming:
            yield coming[0], coming[1].result()
