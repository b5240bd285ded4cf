"""`hrseg benchmark predict`: speed, memory and label maps of checkpoints and exported files, side by side."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from cv2 import INTER_NEAREST

from hrseg.cli import one_line
from hrseg.cli.benchmark_rows import Row, append_row, require_rows_or_nothing, show_rows
from hrseg.cli.image_search import find_images
from hrseg.cli.option_parser import OptionParser, image_size
from hrseg.cli.predict_options import TRUST
from hrseg.cli.run_images import images_to_measure
from hrseg.cli.source import checkpoint_in
from hrseg.errors import ConfigError
from hrseg.run.folders import run_dir_of
from hrseg.utils.paths import expanded
from hrseg.utils.progress import track_progress
from hrseg.utils.resize import resize_image

if TYPE_CHECKING:
    from hrseg.data.labels import LabelTable
    from hrseg.inference.comparison import Contender, PredictorProcess

PRECISIONS = ("fp32", "bf16", "fp16")
_ROUNDS = 5
_SHARED = {"size": "images of {}", "images": "label maps of {} images", "threads": "threads {}"}
# headings and formats; those of shares are per cent
_NUMBERS = {
    "latency_ms": ("median\nms", ".1f"),
    "min_ms": ("min\nms", ".1f"),
    "images_per_s": ("images\n/s", ".2f"),
    "speedup": ("speed-\nup", ".2f"),
    "peak_gib": ("peak\nGiB", ".2f"),
    "file_mib": ("file\nMiB", ".1f"),
    "miou": ("mIoU\n%", ".2f"),
    "differing": ("pixels that\ndiffer, %", ".4f"),
}
_SHARES = ("miou", "differing")
_HEADINGS = {"row": "", "size": "size", **{name: heading for name, (heading, _) in _NUMBERS.items()}}
# of the CSV file
_COLUMNS = ("file", "runs_on", *_SHARED, *_NUMBERS, "failure", "date", "commit", "versions", "hardware")


class _Entry:
    """A predictor under measurement, and what was found.

    Args:
        given: The user's name of its file.
        contender: The predictor.

    Attributes:
        process: What runs it.
        numbers: Numbers of its row.
        rounds: Seconds of the runs of each round.
        failure: Why it cannot be measured.
    """

    process: PredictorProcess

    def __init__(self, given: str, contender: Contender) -> None:
        self.given = given
        self.contender = contender
        self.numbers: dict[str, Any] = {}
        self.rounds: list[list[float]] = []
        self.failure = ""

    @contextmanager
    def measuring(self, error: type[Exception]) -> Iterator[None]:
        """Records the error as a failure."""
        try:
            yield
        except error as reason:
            self.failure = self.failure or str(reason)


def run(verb: str, arguments: Sequence[str]) -> int:
    """Measures, prints a table, and appends rows to a CSV file if asked to."""
    parser = OptionParser(
        prog=f"hrseg {verb}",
        description="Compare predictors: time from the image to the label map, peak memory, size of the file, mIoU "
        "where the run's val split is at hand, and pixels whose label differs from that of the first row. Each runs in "
        "a process of its own; rounds of all take turns. OMP_NUM_THREADS sets the number of threads on the CPU.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="RUN|FILE",
        help="folders of runs; best.ckpt or last.ckpt; files of `hrseg export`. The first, in "
        "the first precision, is what the others are compared with",
    )
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32"], help="of checkpoints (fp32)")
    parser.add_argument("--size", nargs="+", type=image_size, metavar="HxW", help="to resize images to; their own")
    parser.add_argument("--images", nargs="+", help="images; the val split of the first run by default")
    parser.add_argument("--limit", type=int, metavar="N", default=20, help="images for label maps (%(default)s)")
    parser.add_argument("--device", help="such as cuda:1 or cpu; the GPU by default, if there is one")
    parser.add_argument("--trust", action="store_true", help=f"{TRUST} Files that hold code (.pt2, .engine) need it.")
    parser.add_argument("--seconds", type=float, metavar="S", default=5.0, help="minimum time per row (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="CSV file to append rows to")
    options = parser.parse_args(arguments)
    if not 0 <= options.seconds <= 3600:
        raise ConfigError(f"--seconds is {options.seconds}; expected 0 to 3600")
    if options.limit < 1:
        raise ConfigError(f"--limit is {options.limit}; expected 1 or more")
    if options.output is not None:
        require_rows_or_nothing(options.output, _COLUMNS)
    paths = {given: checkpoint_in(expanded(given)) for given in options.files}
    for given, path in paths.items():
        if not path.is_file():
            raise ConfigError(f"no file {given}; expected the folder of a run, a checkpoint or an exported file")
    found = None if options.images is None else list(find_images(options.images, Path())[0].values())

    from hrseg.utils.environment import describe_environment  # torch: only once the input was found

    environment = describe_environment(("hrseg", "torch", "onnxruntime", "openvino"))
    *origin, hardware = filter(None, environment.values())
    print(f"{', '.join(origin)}\n{hardware}", flush=True)
    rows: list[Row] = []
    for size in options.size or [None]:
        for row in _measure(paths, size, found, options):
            rows.append(row)
            if options.output is not None:
                rounded = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
                append_row(options.output, _COLUMNS, {**rounded, **environment})
    _show(rows)
    return 1 if any(row.get("failure") for row in rows) else 0


def _show(rows: Sequence[Row]) -> None:
    """Prints the predictors with their numbers, which stand for them in a table that fits into 80 columns."""
    predictors = dict.fromkeys((row["file"], row["runs_on"]) for row in rows if not row.get("failure"))
    numbers = {predictor: str(number) for number, predictor in enumerate(predictors, 1)}
    for (file, runs_on), number in numbers.items():
        print(one_line(f"{number}: {file}, {runs_on}"))
    shown = []
    for row in rows:
        texts = {"row": numbers.get((row["file"], row.get("runs_on")), "")}
        for name, (_, form) in _NUMBERS.items():
            value = row.get(name)
            if isinstance(value, float):
                texts[name] = f"{100 * value if name in _SHARES else value:{form}}"
        shown.append({**row, **texts})
    show_rows(shown, _SHARED, _HEADINGS, lambda row: f"{row['file']}, {row['size']}")


def _measure(
    paths: Mapping[str, Path], size: tuple[int, int] | None, found: Sequence[Path] | None, options: Namespace
) -> Iterator[Row]:
    """Measures all files and precisions on images of one size."""
    from hrseg.inference.comparison import Contender, MeasurementError, PredictorProcess
    from hrseg.inference.exported import is_exported

    run_dir = next(filter(None, map(run_dir_of, paths.values())), None)
    with TemporaryDirectory() as folder, ExitStack() as processes:
        images = _Images(Path(folder), size, *images_to_measure(found, run_dir, options.limit, options.trust))
        entries = [
            _Entry(given, Contender(str(path), precision, options.device, options.trust))
            for given, path in paths.items()
            for precision in (["fp32"] if is_exported(path) else options.precision)
        ]
        for entry in track_progress(entries, "predicting", len(entries)):
            entry.process = processes.enter_context(PredictorProcess(entry.contender, images.files))
            with entry.measuring(MeasurementError):
                entry.numbers |= entry.process.open()
                with TemporaryDirectory(dir=folder) as labels:
                    entry.process.predict(Path(labels))
                    entry.numbers |= images.score(Path(labels))
        for _, entry in track_progress(list(product(range(_ROUNDS), entries)), "timing", _ROUNDS * len(entries)):
            if not entry.failure:
                with entry.measuring(MeasurementError):
                    entry.rounds.append(entry.process.time(options.seconds / _ROUNDS))
        for entry in entries:
            with entry.measuring(MeasurementError):
                entry.numbers["peak_gib"] = entry.process.peak_gib()
            row = {"file": entry.given, "size": images.size, "images": len(images.files)}
            yield row | ({"failure": entry.failure} if entry.failure else _summary(entry, entries[0]))


class _Images:
    """Images at the size to measure, as files, and what label maps of them are compared with.

    Args:
        folder: For the files.
        size: (height, width) that images are resized to; None for their own.
        samples: Images and their train ids, if known.
        labels: Of the train ids.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int] | None,
        samples: Iterable[tuple[np.ndarray, np.ndarray | None]],
        labels: LabelTable | None,
    ) -> None:
        self.files: list[Path] = []
        self._targets: list[np.ndarray] = []
        self._labels = labels
        self._reference: list[np.ndarray] = []  # label maps of the first row
        sizes = set()
        for index, (image, target) in enumerate(samples):
            self.files.append(folder / f"{index}.npy")
            np.save(self.files[-1], image if size is None else resize_image(image, size))
            sizes.add(image.shape[:2] if size is None else size)
            if target is not None:
                self._targets.append(target if size is None else resize_image(target, size, INTER_NEAREST))
        self.size = "x".join(map(str, sizes.pop())) if len(sizes) == 1 else "various sizes"

    def score(self, folder: Path) -> dict[str, float | None]:
        """Compares label maps with the ground truth and with those that were scored first.

        Args:
            folder: With 0.npy, 1.npy, ...

        Returns:
            "miou", a fraction; None without ground truth. "differing", the share of pixels with another label.
        """
        import torch

        from hrseg.metrics import confusion_matrix, mean_iou

        maps = [np.load(folder / path.name) for path in self.files]
        self._reference = self._reference or maps
        differing = sum(int((one != other).sum()) for one, other in zip(maps, self._reference, strict=True))
        miou = None
        if self._labels is not None and len(self._targets) == len(maps):
            classes = self._labels.num_classes, self._labels.ignore_index
            counts = torch.stack(
                [
                    confusion_matrix(torch.from_numpy(labels), torch.from_numpy(target), *classes)
                    for labels, target in zip(maps, self._targets, strict=True)
                ]
            ).sum(0)
            miou = float(mean_iou(counts))
        return {"miou": miou, "differing": differing / sum(labels.size for labels in maps)}


def _summary(entry: _Entry, first: _Entry) -> dict[str, object]:
    """The numbers of a row; the speed-up is the median over the rounds of the first row's minimum over its own."""
    seconds = [value for values in entry.rounds for value in values]
    latency = median(seconds)
    faster = [min(theirs) / min(ours) for theirs, ours in zip(first.rounds, entry.rounds, strict=False)]
    return entry.numbers | {
        "latency_ms": 1e3 * latency,
        "min_ms": 1e3 * min(seconds),
        "images_per_s": 1 / latency,
        "speedup": median(faster) if faster else None,
        "file_mib": _size_of(Path(entry.contender.path)) / 2**20,
    }


def _size_of(path: Path) -> int:
    """Bytes of a file, with the weights of an OpenVINO or ONNX file that lie beside it."""
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else [path.with_name(f"{path.name}.data")]
    return sum(file.stat().st_size for file in [path, *beside] if file.is_file())
