"""`hrseg predict`: a split of a data set, or any images with `--images`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hrseg.cli import one_line
from hrseg.cli.config_errors import as_config_error
from hrseg.cli.image_search import find_images
from hrseg.cli.label_tables import ACCEPTED, read_labels
from hrseg.cli.option_parser import OptionParser
from hrseg.cli.predict_options import TRUST, add_predict_options, certainty_options
from hrseg.cli.source import open_source
from hrseg.run.folders import results_dir_of
from hrseg.utils.files import require_writable, write_json
from hrseg.utils.paths import expanded
from hrseg.utils.progress import track_progress
from hrseg.utils.text_files import read_json


def run(verb: str, arguments: Sequence[str]) -> int:
    """Predicts the images of `--images`, or a split of a data set through Lightning."""
    wants_help = bool({"-h", "--help"} & set(arguments))
    if not any(argument.split("=")[0] == "--images" for argument in arguments):
        if wants_help:
            print("For any images: hrseg predict --images --help. For a split of a data set:\n", flush=True)
        return int(importlib.import_module("hrseg.cli.lightning").run(verb, arguments))
    parser = OptionParser(prog="hrseg predict", description="Write the label maps of any images, and overlays.")
    parser.add_argument("--images", required=True, nargs="+", help="files, folders (searched recursively), or globs")
    parser.add_argument(
        "--ckpt_path",
        required=True,
        help="best.ckpt or last.ckpt of a run; a file of `hrseg export`; with --labels, weights of any code base, or a "
        "name that `hrseg weights list` shows",
    )
    parser.add_argument("--labels", help=f"the classes of weights from elsewhere than a run: {ACCEPTED}")
    add_predict_options(parser)
    parser.add_argument("--trust", action="store_true", help=TRUST)
    options = parser.parse_args(["--help"] if wants_help else arguments)
    folder = results_dir_of(expanded(options.ckpt_path)) or Path()
    output = expanded(options.output) if options.output else folder / "predict"
    images, notes = find_images(options.images, output)
    if options.labels is not None:
        read_labels(options.labels)

    from hrseg.inference import Predictor  # torch: only once the input was found
    from hrseg.inference.backend import network_name
    from hrseg.inference.image_files import predict_files
    from hrseg.inference.writer import IMAGES, written_files

    with as_config_error():
        if options.labels is None:
            predictor = Predictor.from_file(
                options.ckpt_path, options.device, options.protocol, options.trust, options.precision or "fp32"
            )
        else:
            predictor = open_source(options.ckpt_path, options.labels, options.trust).predictor(
                options.device, options.protocol, options.precision or "fp32"
            )
    print(f"{network_name(predictor.network)}: {predictor.runs_on}", flush=True)
    require_writable(output)
    if (output.parent / "config.yaml").is_file():  # of a run, whose predictions `hrseg submit` packs
        read = {name: os.path.realpath(path) for name, path in images.items()}
        write_json(output / IMAGES, read_json(output / IMAGES) | read)
    certainty = certainty_options(options.confidence, options.probabilities)
    done = predict_files(predictor, images, output, certainty)
    left_out = [reason for reason in track_progress(done, "predicting", len(images)) if reason is not None]
    print(f"{len(images) - len(left_out)} of {len(images)} images predicted")
    for line in (*notes, *written_files(output, certainty).splitlines()):
        print(one_line(line))
    for reason in left_out:
        print(f"left out: {one_line(reason)}", file=sys.stderr)
    return 1 if left_out else 0
