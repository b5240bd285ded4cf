"""`hrseg calibrate`: the temperature of a checkpoint's probabilities, fitted on the validation split."""

from __future__ import annotations

from collections.abc import Sequence

from hrseg.cli.arguments import value_of
from hrseg.cli.option_parser import OptionParser
from hrseg.cli.source import checkpoint_in
from hrseg.errors import ConfigError
from hrseg.utils.paths import expanded


def run(verb: str, arguments: Sequence[str]) -> int:
    """Fits the temperature through two validations, writes it to the checkpoint, and prints calibration scores."""
    parser = OptionParser(
        prog="hrseg calibrate",
        usage="hrseg calibrate RUN|CHECKPOINT [options of hrseg validate]",
        description="Fit a temperature to the validation split under the run's val_protocol (Guo et al., arXiv "
        "1706.04599), write it to the checkpoint, and print how well confidence and accuracy agree without and with "
        "it. Labels do not change; probabilities of `hrseg predict`, `Predictor` and exports made later do.",
        epilog="Writes calibration.json and calibration.csv, the reliability curves, to the run's folder. All options "
        "of `hrseg validate` may follow, such as --config, --data.root or --trainer.devices.",
    )
    parser.add_argument("source", metavar="RUN|CHECKPOINT", help="folder of a run, or its best.ckpt or last.ckpt")
    if {"-h", "--help"} & set(arguments):
        parser.parse_args(["--help"])
    given = value_of("--ckpt_path", arguments)
    if given is None and (not arguments or arguments[0].startswith("-")):
        raise ConfigError("expected the folder of a run or a checkpoint first; see hrseg calibrate --help")
    if given is None:
        given, arguments = arguments[0], arguments[1:]
        arguments = [f"--ckpt_path={checkpoint_in(expanded(given))}", *arguments]

    from hrseg.cli.calibration import CalibrateCLI  # torch and Lightning: not for --help
    from hrseg.cli.lightning import run as run_lightning

    return run_lightning("validate", arguments, CalibrateCLI)
