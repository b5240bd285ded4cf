from __future__ import annotations

import csv
from pathlib import Path

import cv2
import pytest

from experiments.benchmarks.__main__ import COMMAND, main
from experiments.benchmarks.scaling import GPUS, Scaling, format_scaling
from hrseg.errors import ConfigError

NETWORK = "hrnetv2_w18_small_v1"


def test_rows() -> None:
    rows = Scaling([NETWORK], 0.5, 4, [10.0]).rows()
    values = {row.side: row.value for row in rows if row.case == NETWORK}
    assert values["gradients of a step"] == pytest.approx(4 * 1.540819)
    assert values["messages of SyncBN in a step"] == 2 * 72
    assert values["sent by each of 8 GPUs"] == pytest.approx(1.75 * 4 * 1.540819 + 0.875 * 0.0295, rel=1e-4)

    title = f"{NETWORK}, 4 crops in 0.5 s on one GPU (given); "
    weak = [row for row in rows if row.case == f"{title}10 GB/s"]
    assert [row.side for row in weak] == [f"{gpus} GPUs" for gpus in GPUS]
    assert (weak[0].value, weak[0].ratio) == (pytest.approx(8), pytest.approx(1))
    for gpus, row in zip(GPUS, weak, strict=True):
        assert row.ratio is not None
        assert row.value == pytest.approx(8 * gpus * row.ratio)  # crops per second
    strong = [row for row in rows if row.case == f"{title}batch 12"]
    assert [row.side.split()[0] for row in strong] == ["1", "2", "3", "4", "6", "12"]
    synchronised = [row for row in rows if row.case == f"{title}10 GB/s, SyncBN"]
    assert all((one.ratio or 0) > (other.ratio or 0) for one, other in zip(weak[1:], synchronised[1:], strict=True))


def test_the_assumed_step_time_follows_from_the_multiply_adds() -> None:
    case = next(Scaling(["hrnetv2_w48"]).cases())
    assert case.training.step_time == pytest.approx(3 * 6 * 747_513_053_184 / 4 / 20e12)
    assert "(assumed)" in case.title


def test_one_time_for_several_networks() -> None:
    with pytest.raises(ConfigError, match="--network"):
        Scaling(step_time=0.1)


def test_table() -> None:
    lines = format_scaling(Scaling([NETWORK], 0.5, 4, [10.0]).rows()).splitlines()
    assert lines[0] == NETWORK
    assert lines[1].split() == ["gradients", "of", "a", "step", "6.163", "MB"]
    assert next(line for line in lines if line.startswith("  GPUs")).split()[1:] == [str(gpus) for gpus in GPUS]
    assert next(line for line in lines if line.startswith("  10 GB/s ")).split()[2:4] == ["8.0", "100%"]


def test_plot(tmp_path: Path) -> None:
    scaling = Scaling([NETWORK], 0.5, bandwidths=[10.0, 1.0])
    for name in ("one.svg", "two.svg", "three.png"):
        scaling.plot(tmp_path / name)
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn == (tmp_path / "two.svg").read_text()
    assert NETWORK in drawn
    assert "10 GB/s" in drawn
    assert cv2.imread(str(tmp_path / "three.png")).std() > 0


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, plot = tmp_path / "scaling.csv", tmp_path / "scaling.svg"
    options = ["--network", NETWORK, "--step_time", "0.5", "--bandwidth", "10", "2.5", "--gpus_per_node", "4"]
    assert main(["scaling", *options, "--plot", str(plot), "--output", str(table)]) == 0
    assert "2.5 GB/s, SyncBN" in capsys.readouterr().out
    assert plot.exists()
    with table.open(newline="") as file:
        commands = {row["command"] for row in csv.DictReader(file)}
    assert commands == {
        f"{COMMAND} scaling --network {NETWORK} --step_time 0.5 --crops 3 --bandwidth 10 2.5 --gpus_per_node 4"
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--step_time", "0.5"], "give --network"),
        (["--network", NETWORK, "--step_time", "0"], "--step_time is 0.0"),
        (["--bandwidth", "25", "nan"], "--bandwidth is nan"),
        (["--crops", "0"], "--crops is 0"),
        (["--plot", "scaling.jpg"], "ends with .svg or .png"),
        (["--network", "hrnetv2_w19"], "did you mean"),
    ],
)
def test_command_refuses(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scaling", *options]) == 2
    assert message in capsys.readouterr().err
