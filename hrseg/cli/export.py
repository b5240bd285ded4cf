"""`hrseg export`: a trained network as one file for ONNX Runtime, OpenVINO or PyTorch, with a certificate."""

from __future__ import annotations

import hashlib
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from hrseg.cli import one_line
from hrseg.cli.config_errors import as_config_error
from hrseg.cli.image_search import find_images
from hrseg.cli.label_tables import ACCEPTED
from hrseg.cli.option_parser import OptionParser, image_size
from hrseg.cli.predict_options import TRUST
from hrseg.cli.run_images import evenly_spread, images_to_measure, samples_of_run
from hrseg.cli.source import Source, open_source
from hrseg.errors import ConfigError, HrsegError
from hrseg.utils.files import write_json
from hrseg.utils.images import read_image
from hrseg.utils.lazy import Lazy
from hrseg.utils.paths import expanded
from hrseg.utils.progress import track_progress

if TYPE_CHECKING:
    from hrseg.export.certificate import Certificate, Scored
    from hrseg.export.quantization import Quantization
    from hrseg.inference.exported import ExportDescription

RUNTIMES = ("onnx", "openvino", "torch", "tensorrt")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
_IMAGES, _IMAGES_INT8 = 20, 200


def run(verb: str, arguments: Sequence[str]) -> int:
    """Exports and certifies a network, or prints what a file states about itself."""
    parser = OptionParser(
        prog=f"hrseg {verb}",
        usage="hrseg export RUN|CHECKPOINT|WEIGHTS --to RUNTIME [options]\n       hrseg export --describe FILE",
        description="Write a network as one file that maps uint8 RGB images (N, H, W, 3) to labels at their own size, "
        "run it beside PyTorch, and write a certificate of what differs.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="folder of a run; best.ckpt or last.ckpt; with --labels, weights of any code base, or a name that "
        "`hrseg weights list` shows",
    )
    parser.add_argument("--to", choices=RUNTIMES, help="the runtime")
    parser.add_argument("--output", metavar="FILE", help="export/NETWORK.SUFFIX in the run's folder by default")
    parser.add_argument("--labels", help=f"the classes of weights from elsewhere than a run: {ACCEPTED}")
    parser.add_argument("--size", type=image_size, metavar="HxW", help="take images of this size only; any by default")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the layers (fp32)")
    parser.add_argument("--probabilities", action="store_true", help="also give the probability of each label")
    parser.add_argument("--all", action="store_true", help="with --probabilities: those of all classes, too")
    parser.add_argument("--compile", action="store_true", help="torch: add machine code for CPUs like this one")
    parser.add_argument(
        "--images",
        nargs="+",
        help="images for the certificate, and to calibrate int8 with if there is no run; a run's own by default",
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help=f"images for the certificate ({_IMAGES}; for int8, whose mIoU is held on them, {_IMAGES_INT8})",
    )
    parser.add_argument(
        "--max_drop",
        type=float,
        metavar="POINTS",
        default=0.5,
        help="mIoU that another precision than fp32 may lose (%(default)s)",
    )
    parser.add_argument("--trust", action="store_true", help=TRUST)
    parser.add_argument("--describe", metavar="FILE", help="print what an exported file states about itself, and end")
    options = parser.parse_args(arguments)
    if options.describe is not None:
        return _describe(options.describe, options.trust)
    if options.source is None or options.to is None:
        raise ConfigError(f"expected what to export, and --to with one of {', '.join(RUNTIMES)}; see hrseg export -h")
    if options.all and not options.probabilities:
        raise ConfigError("--all goes with --probabilities")
    if options.compile and options.to != "torch":
        raise ConfigError(f"--compile goes with --to torch, not {options.to}")
    if options.limit is None:
        options.limit = _IMAGES_INT8 if options.precision == "int8" else _IMAGES
    if options.limit < 1:
        raise ConfigError(f"--limit is {options.limit}; expected 1 or more")
    found = None if options.images is None else find_images(options.images, Path())[0]

    from hrseg.export import certify, check_precision, export  # torch: only once the input was found
    from hrseg.export.certificate import fitted
    from hrseg.inference.exported import open_exported

    check_precision(options.to, options.precision)
    images = None if found is None else list(found.values())
    with as_config_error():
        source = open_source(options.source, options.labels, options.trust)
        description = _description(source, options)
        path = _output(options.output, source, description)
        samples = _samples(source, images, options)
        quantization = _quantization(source, images, samples, options) if options.precision == "int8" else None
        files = export(source.network, description, path, options.compile, quantization)
    print(f"written: {', '.join(map(str, files))}")
    exported = open_exported(path, trust=True)
    fitting = (fitted(sample, exported.description) for sample in samples)
    certificate = certify(source.network, exported, track_progress(fitting, "certifying", len(samples)), files)
    write_json(path.with_name(f"{path.name}.certificate.json"), certificate.to_dict())
    _show(certificate)
    if violation := certificate.violation(options.max_drop):
        print(f"hrseg: {path} is not certified: {violation}", file=sys.stderr)
        return 1
    return 0


def _describe(file: str, trust: bool) -> int:
    """Prints the description as YAML-like lines."""
    from hrseg.inference.exported import read_description

    print(json.dumps(json.loads(read_description(expanded(file)).to_json()), indent=2, ensure_ascii=False))
    return 0


def _description(source: Source, options: Namespace) -> ExportDescription:
    from hrseg.inference.backend import network_name
    from hrseg.inference.exported import ExportDescription
    from hrseg.inference.exported.description import OUTPUTS

    stated = source.description
    network = source.network
    config = None if source.run_dir is None else source.run_dir / "config.yaml"
    number = 1 + options.probabilities + options.all
    return ExportDescription(
        runtime=options.to,
        precision=options.precision,
        network=network_name(network),
        labels=stated.labels,
        mean=stated.mean,
        std=stated.std,
        channel_order=getattr(network, "channel_order", "rgb"),
        align_corners=getattr(network, "align_corners", False),
        protocol=stated.protocol,
        crop_size=stated.crop_size,
        input_size=stated.input_size,
        size=options.size,
        temperature=stated.temperature,
        outputs=OUTPUTS[:number],
        config=hashlib.sha256(config.read_bytes()).hexdigest() if config is not None else "",
        licence=source.licence,
    )


def _output(given: str | None, source: Source, description: ExportDescription) -> Path:
    from hrseg.export import FILE_SUFFIXES

    suffix = FILE_SUFFIXES[description.runtime]
    if given is not None:
        return expanded(given)
    size = "" if description.size is None else f"_{description.size[0]}x{description.size[1]}"
    precision = "" if description.precision == "fp32" else f"_{description.precision}"
    return (source.run_dir or Path()) / "export" / f"{description.network}{size}{precision}{suffix}"


def _samples(source: Source, images: list[Path] | None, options: Namespace) -> Sequence[Scored]:
    """Images for the certificate: given, of the run's val split, or generated."""
    from hrseg.export.certificate import Scored

    given, _ = images_to_measure(images, source.run_dir, options.limit, options.trust)
    return Lazy(given, lambda pair: Scored(*pair))


def _quantization(
    source: Source, images: list[Path] | None, samples: Sequence[Scored], options: Namespace
) -> Quantization:
    """Images to calibrate with: of the run's training split, or those given."""
    from hrseg.export.quantization import CALIBRATION_IMAGES, Quantization

    reason = "weights from elsewhere have none of their own"
    if source.run_dir is not None:
        try:
            found, _ = samples_of_run(source.run_dir, "train", CALIBRATION_IMAGES, options.trust)
            return Quantization(Lazy(found, lambda sample: read_image(sample.image)), samples, options.max_drop)
        except HrsegError as error:
            reason = one_line(str(error))
    if images is None:
        raise ConfigError(f"no images to calibrate int8 with, give --images: {reason}")
    spread = evenly_spread(images, CALIBRATION_IMAGES)
    return Quantization(Lazy(spread, read_image), samples, options.max_drop)


def _show(certificate: Certificate) -> None:
    """Prints the certificate as a table of two rows."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("", "mIoU", "ms/image"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = (
        ("PyTorch on cpu, fp32", certificate.miou_torch, certificate.seconds_torch),
        (certificate.runs_on, certificate.miou, certificate.seconds),
    )
    for name, miou, seconds in rows:
        table.add_row(name, "-" if miou is None else f"{100 * miou:.2f}", f"{1e3 * seconds:.1f}")
    console = Console(highlight=False)
    console.print(table)
    print(
        f"{certificate.differing} of {certificate.pixels} pixels of {certificate.images} images differ, "
        f"{certificate.beyond_ties} of them not near-ties; logits differ by up to "
        f"{certificate.largest_difference:.2g}; {certificate.bytes / 2**20:.1f} MiB"
    )
