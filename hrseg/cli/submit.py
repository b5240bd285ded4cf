"""`hrseg submit`: the archive for a benchmark server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hrseg.cli.option_parser import OptionParser
from hrseg.errors import ConfigError
from hrseg.utils.text_files import read_json, read_settings
from hrseg.utils.trust import require_trusted


def run(verb: str, arguments: Sequence[str]) -> int:
    """Packs the predictions in a run's folder."""
    parser = OptionParser(
        prog=f"hrseg {verb}",
        description="Check the predictions of a run and pack them in the format of the benchmark server. "
        "First: hrseg predict --ckpt_path RUN/checkpoints/best.ckpt",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, such as runs/NAME/N")
    parser.add_argument("--output", type=Path, metavar="ZIP", help="file to write (RUN/submission.zip)")
    parser.add_argument("--root", help="folder of the data set, if it has moved since the run")
    parser.add_argument("--trust", action="store_true", help="build a data module of any class that the run names")
    options = parser.parse_args(arguments)
    config = options.run / "config.yaml"
    if not config.is_file():
        raise ConfigError(f"no {config}; expected the folder of a run, such as runs/NAME/N")

    from hrseg.cli.data_options import parse_data
    from hrseg.data.tools.submission import write_submission
    from hrseg.inference.writer import IMAGES, LABELS

    if not options.trust:
        require_trusted(read_settings(config).get("data"), config, "data")
    data = parse_data(["--config", str(config), *([f"--data.root={options.root}"] if options.root else [])])
    archive = options.output or options.run / "submission.zip"
    predictions = options.run / "predict"
    number = write_submission(data, predictions / LABELS, archive, read_json(predictions / IMAGES))
    print(f"{number} predictions of {data.labels.name} {data.predict_split}: {archive}")
    return 0
