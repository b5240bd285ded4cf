from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hrseg.cli import main
from hrseg.inference import benchmark
from hrseg.inference.benchmark import Case

NETWORK = "hrnetv2_w18_small_v1"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """The measured cases; batch size 64 runs out of memory."""
    seen: list[Case] = []

    def measure(case: Case) -> dict[str, float | str]:
        seen.append(case)
        return {"failure": "out of memory"} if case.batch_size == 64 else {"latency_ms": 12.34567, "device": "cpu"}

    monkeypatch.setattr(benchmark, "measure", measure)
    return seen


def test_every_combination_is_a_row(cases: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "rows.csv"
    options = ["--size", "64x96", "32x32", "--batch_size", "1", "64", "--precision", "fp32", "bf16", "--seconds", "0.5"]
    assert main(["benchmark", NETWORK, *options, "--output", str(path)]) == 1
    assert len(cases) == 8
    assert cases[3] == Case(NETWORK, size=(64, 96), batch_size=64, precision="bf16", seconds=0.5)
    rows = read_csv(path)
    assert [row["failure"] for row in rows] == 2 * ["", "", "out of memory", "out of memory"]
    assert (rows[0]["subject"], rows[0]["size"], rows[0]["latency_ms"]) == (NETWORK, "64x96", "12.34567")
    assert "torch" in rows[0]["versions"]
    assert "cores" in rows[0]["hardware"]
    assert {"date", "commit"} <= set(rows[0])
    out = capsys.readouterr().out
    assert rows[0]["hardware"] in out
    assert "12.35" in out
    assert "out of memory" in out
    assert "images" not in out  # the column would be empty


def test_rows_are_appended(cases: list[Case], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for size in ("64x64", "32x32"):
        assert main(["benchmark", NETWORK, "--size", size, "--output", str(path)]) == 0
    assert [row["size"] for row in read_csv(path)] == ["64x64", "32x32"]


def test_a_table_that_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def measure(case: Case) -> dict[str, float | str]:
        if case.batch_size == 64:
            return {"failure": "out of memory"}
        facts = {"params_m": 65.859, "gmacs": case.size[0] / 3, "device": "cuda:0", "threads": 2}
        return facts | {
            "latency_ms": 12.34567,
            "min_ms": 98765.4,
            "p90_ms": 98765.4,
            "images_per_s": 9876.5,
            "peak_gib": 1,
        }

    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setenv("COLUMNS", "80")
    options = ["--size", "64x64", "512x1024", "1024x2048", "--batch_size", "1", "64", "--precision", "fp32", "bf16"]
    assert main(["benchmark", NETWORK, *options]) == 1
    shared, _, *table = capsys.readouterr().out.splitlines()[2:]
    assert shared == f"{NETWORK}, batch size 1, cuda:0, threads 2, 65.86 million parameters"
    assert max(map(len, table)) <= 80
    assert table[1].split() == ["size", "precision", "/image", "ms", "ms", "ms", "/s", "GiB"]
    assert table[-8].split() == ["1024x2048", "bf16", "341.3", "12.35", "98765", "98765", "9876", "1"]
    assert table[-1] == "1024x2048, batch size 64, bf16: out of memory"


def test_the_network_of_a_checkpoint(cases: list[Case]) -> None:
    assert main(["benchmark", "--ckpt_path", "best.ckpt", "--device", "cuda:1", "--compile", "--trust"]) == 0
    assert cases == [Case("best.ckpt", is_checkpoint=True, device="cuda:1", compile=True, trust=True)]


def test_loader(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "data:\n  class_path: hrseg.StreetScenesDataModule\n  init_args: {image_size: [64, 128], crop_size: [64, 96], "
        "batch_size: 3, num_train: 8, num_val: 1, num_test: 1}\n"
    )
    settings = ["--data.root", str(tmp_path / "scenes"), "--data.num_workers", "1"]
    path = tmp_path / "rows.csv"
    arguments = ["--loader", "--config", str(recipe), *settings, "--seconds", "0", "--output", str(path)]
    assert main(["benchmark", *arguments]) == 0
    (row,) = read_csv(path)
    assert (row["subject"], row["size"]) == ("dataloader of street scenes", "64x96")
    assert (row["batch_size"], row["workers"], row["device"]) == ("3", "1", "")
    assert float(row["images_per_s"]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hrnetv2_w19"], "did you mean"),
        ([], "expected either the name of a network or --ckpt_path"),
        ([NETWORK, "--ckpt_path", "best.ckpt"], "expected either the name of a network or --ckpt_path"),
        ([NETWORK, "--size", "512"], "'512' is not HEIGHTxWIDTH, such as 512x1024"),
        ([NETWORK, "--size", "0x512"], "'0x512' is not HEIGHTxWIDTH"),
        ([NETWORK, "--batch_size", "0"], "'0' is not a number from 1 to 99999"),
        ([NETWORK, "--precision", "int8"], "invalid choice: 'int8'"),
        ([NETWORK, "--seconds", "nan"], "--seconds is nan"),
        ([NETWORK, "--config", "recipe.yaml"], "unrecognized arguments: --config"),
        (["--loader"], "the data set is not known; give --config"),
        (["--loader", "--size", "512x512"], "size"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
