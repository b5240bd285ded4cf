from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pytorch_lightning import Trainer

from hrseg import SegmentationTask
from hrseg.cli import main
from hrseg.cli.config_errors import as_config_error
from hrseg.data.datasets.camvid import CAMVID
from hrseg.errors import ConfigError, DataFileError

EARLY_STOPPING = "pytorch_lightning.callbacks.EarlyStopping"
SGD = "{{class_path: torch.optim.SGD, init_args: {}}}".format

# what is asked of `hrseg fit` -> what is told
REFUSED = {
    "--seed_everything=-1": "-1 is not in bounds",
    "--seed_everything=99999999999999999999": "is not in bounds",
    "--model.val_protocol={scales: []}": r"protocol: scales is \(\); expected 1 to 64 numbers",
    "--model.val_protocol={scales: [-1]}": r"protocol: scales is \(-1.0,\)",
    "--model.val_protocol={window: [8, 8]}": "protocol: window is .* expected 32 or more",
    f"--model.optimizer={SGD('{lr: -1}')}": "Invalid learning rate: -1.0 .raised by torch.optim",
    f"--model.optimizer={SGD('{lr: 0.1, momentum: -1}')}": "Invalid momentum value",
    f"--model.optimizer={SGD('{lr: 0.1, weight_decay: -1}')}": "Invalid weight_decay value",
    "--model.optimizer={class_path: torch.optim.AdamW, init_args: {betas: [2, 3]}}": "Invalid beta parameter",
    "--trainer.accelerator=foo": "invalid accelerator name",
    "--trainer.accelerator=tpu": "torch_xla",
    "--trainer.strategy=foo": "invalid strategy name",
    "--trainer.strategy=fsdp": "requires a GPU",
    "--trainer.devices=-5": "should be an int > 0",
    "--trainer.devices=0": "not a valid input",
    "--trainer.devices=foo": "should be an int > 0",
    "--trainer.num_nodes=0": "must be a positive integer",
    "--trainer.val_check_interval=1000": "must be less than or equal to the number of the training batches",
    "--trainer.logger={class_path: pytorch_lightning.loggers.WandbLogger}": "WandbLogger cannot start: .*wandb.*; see",
    f"--trainer.callbacks=[{{class_path: {EARLY_STOPPING}, init_args: {{monitor: val/foo}}}}]": (
        "unknown monitor of EarlyStopping 'val/foo'; did you mean val/"
    ),
    f"--trainer.callbacks=[{{class_path: {EARLY_STOPPING}}}]": "EarlyStopping.*: .* required: monitor",
    f"--trainer.callbacks=[{{class_path: {EARLY_STOPPING}, init_args: {{monitor: x, mode: x}}}}]": "can be min, max",
    "--model.network={class_path: torch.nn.Conv2d, init_args: {in_channels: -3, out_channels: 1, kernel_size: 1}}": (
        "negative dimension"
    ),
    "--data.transforms=[{class_path: albumentations.GaussNoise, init_args: {std_range: [-5, 3]}}]": "std_range",
    "--data.scale_range=null": r"^hrseg: scale_range is null; expected tuple\[float, float\]$",
    "--data.eval_batch_size=null": "^hrseg: eval_batch_size is null; expected int$",
    "--data=hrseg.CamVidDataModul": "^hrseg: data: unknown class 'hrseg.CamVidDataModul'; did you mean hrseg.CamVid",
    "--data=CamVidDataModul": "did you mean hrseg.CamVidDataModule",
    "--model=hrnetv2_w18": "unknown class 'hrnetv2_w18'; .*; a network is given as --model.network hrnetv2_w18$",
    "--model.loss=CrossEntropyLos": "did you mean hrseg.losses.CrossEntropyLoss",
    # the suggestions list tasks, data modules and losses
    "--model.loss=foo": r"^hrseg: model.loss: unknown class 'foo'; known: (hrseg\.losses\.\w+(, )?)+$",
    "--trainer.logger=foo": "trainer.logger: unknown class 'foo'; expected bool, or the import path of a class$",
    "--trainer.callbacks=foo": "^hrseg: trainer.callbacks: unknown class 'foo'; expected the import path of a class$",
    "--trainer.callbacks=[hrseg.callbacks.Foo]": "unknown class 'hrseg.callbacks.Foo'; expected the import path of a",
    "--model.schedule=nix": "unknown class 'nix'; expected 'poly', 'cosine', 'step', or the import path of a class$",
    "--model.optimizer=foo": "^hrseg: model.optimizer: unknown class 'foo'; expected the import path of a class$",
    f"--model.optimizer={SGD('{lr: nan}')}": "lr: unknown class 'nan'; expected float, or the import path of a class$",
    "--model.network=nets.Few": "unknown model 'nets.Few'; .* Give .* as --model.network.class_path nets.Few, in Pyth",
    "--model.network=hrnetv2_w4.8": "unknown model 'hrnetv2_w4.8'; did you mean",
    "--ckpt_path=best": "no checkpoint at best",
    "--ckpt_path=hpc": "no checkpoint at hpc",
    "--timeout_minutes=0": "timeout_minutes is 0.0; expected more than 0",
    "--trainer.max_time=soon": "duration='soon'",
    "--trainer.accumulate_grad_batches=0": "accumulate_grad_batches is 0; expected 1 or more",
    "--trainer.devices=99999999": "devices is 99999999; expected 1 to",
    "--trainer.num_nodes=99999999": "nothing says where the others are",
    "--experiment=" + "x" * 300: "File name too long",
    "--experiment=../x": "leads out of runs/",
    "--experiment=/": "leads out of runs/",
    "--run_dir=" + "x" * 300: "File name too long",
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_a_library_refuses_is_no_traceback(option: str, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", f"--config={recipe}", option]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hrseg: ")]
    assert re.search(REFUSED[option], line), line


LAUGHTER = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
CONFIGS: dict[str, tuple[bytes, str]] = {
    "UTF-16": ("model: {network: x}".encode("utf-16"), "cannot be read: .* expected text in UTF-8, not UTF-16"),
    "binary": (b"\x89PNG\r\n\x1a\n", "cannot be read: .* expected text in UTF-8"),
    "NUL": (b"model: {}\0", "holds NUL bytes"),
    "empty": (b"", "holds nothing; expected settings such as"),
    "list": (b"[model]", "holds a list; expected settings such as"),
    "duplicate": (b"model: {network: a}\nmodel: {network: b}", "line 2: model stands twice"),
    "laughter": (f"a0: &a0 [x]\n{LAUGHTER}".encode(), "has more than .* values, its anchors resolved"),
    "recursion": (b"model: &a [*a]", "has an anchor that contains itself"),
    "depth": (b"model: " + b"[" * 9999, "is nested too deeply"),
    "length": (b"model: " + b"x" * 10**6, "has 1000007 bytes; expected a text file of"),
    "code": (b"model: !!python/object/apply:os.system [id]", "is no YAML: could not determine a constructor"),
}


@pytest.mark.parametrize("verb", ["fit", "verify"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_is_none(kind: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(CONFIGS[kind][0])
    assert main([verb, "--config", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"hrseg: the config {path},? {CONFIGS[kind][1]}", line), line


@pytest.mark.parametrize("kind", ["folder", "pipe", "missing"])
def test_a_config_that_is_no_file(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # reading it would block
    assert main(["fit", f"--config={tmp_path / kind}"]) == 2
    assert re.match(f"hrseg: the config {tmp_path / kind} (is a folder, pipe|cannot be read)", capsys.readouterr().err)


@pytest.mark.parametrize("verb", ["fit", "verify"])
def test_without_a_recipe_the_data_class_is_asked_for(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for argument in ("--data.root=x", "--config={trainer: {}}"):
        assert main([verb, argument]) == 2
        assert "give --config with a recipe, or --data with a class" in capsys.readouterr().err


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_is_read_with_limits_where_a_task_is_named_too(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(CONFIGS[kind][0])
    assert main(["fit", "--model=hrseg.SegmentationTask", f"--config={path}"]) == 2
    assert re.match(f"hrseg: the config {path},? {CONFIGS[kind][1]}", capsys.readouterr().err)


@pytest.mark.parametrize("verb", ["fit", "verify"])
def test_a_config_from_stdin(verb: str, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` used to look for a file named -."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(recipe.read_text()))
    assert main([verb, "--config", "-"]) == 0
    assert (recipe.parent / "runs" / "stdin" / "0" / "config.yaml").is_file() == (verb == "fit")


@pytest.mark.parametrize("verb", ["fit", "verify"])
@pytest.mark.parametrize("kind", ["UTF-16", "binary", "empty", "list", "laughter", "recursion", "depth", "length"])
def test_a_stdin_that_holds_no_settings_is_reported(
    kind: str, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, told = CONFIGS[kind]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    assert main([verb, "--config=-"]) == 2
    told = told.replace("has 1000007 bytes; expected a text file of", "has more than 262144 characters")
    assert re.match(f"hrseg: the config of the standard input {told}", capsys.readouterr().err)


@pytest.mark.parametrize("place", ["", "/", "folder", "pipe"])
def test_a_report_goes_to_a_file_only(place: str, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe.parent / "folder").mkdir()
    os.mkfifo(recipe.parent / "pipe")  # like a device, it must not be replaced
    assert main(["verify", f"--config={recipe}", f"--json={place}"]) == 2
    assert "expected the name of a file" in capsys.readouterr().err
    assert (recipe.parent / "pipe").is_fifo()


def raising(module: str, error: str = "ValueError('no')") -> ModuleType:
    """A module whose `call` raises."""
    library = ModuleType(module)
    exec(f"def call(): raise {error}", vars(library))
    return library


@pytest.mark.parametrize(
    ("module", "has_started", "is_refusal"),
    [
        ("anything.of_a_user", False, True),
        ("anything.of_a_user", True, False),
        ("torch.nn.modules.conv", False, True),
        ("torch.nn.modules.conv", True, False),
        ("pytorch_lightning.callbacks.early_stopping", True, True),
        ("torch.optim.sgd", True, True),
        ("hrseg.task", False, False),
    ],
)
def test_bugs_and_what_fails_in_a_step_keep_their_traceback(module: str, has_started: bool, is_refusal: bool) -> None:
    with (
        pytest.raises(ConfigError if is_refusal else ValueError, match="no"),
        as_config_error(lambda: has_started),
    ):
        raising(module).call()


def test_an_error_of_ours_within_one_of_a_library_is_reported() -> None:
    def call() -> None:
        try:
            raise DataFileError("a.png is cut")
        except DataFileError as error:
            raise ValueError("problem") from error

    with pytest.raises(DataFileError, match=r"a.png is cut"), as_config_error():
        call()


def test_an_error_without_text_names_its_class() -> None:
    with pytest.raises(ConfigError, match=r"^AssertionError \(raised by some.module; --trace shows"), as_config_error():
        raising("some.module", "AssertionError()").call()


def test_the_last_checkpoint_is_named_where_there_is_no_best_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "last.ckpt").touch()
    assert main(["validate", f"--ckpt_path={tmp_path}/best.ckpt"]) == 2
    assert f"no checkpoint at {tmp_path}/best.ckpt; give --ckpt_path {tmp_path}/last.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_another_network_or_other_classes_over_a_checkpoint(
    verb: str, recipe: Path, lip_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = SegmentationTask(torch.nn.Conv2d(3, 11, 1), CAMVID)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint("best.ckpt")
    assert main([verb, f"--config={recipe}", "--ckpt_path=best.ckpt"]) == 2
    told = capsys.readouterr().err
    assert re.search(r"best.ckpt comes from a training of .*, but this task is of .*; leave out what differs", told), (
        told
    )
    other = ["--data=hrseg.LIPDataModule", f"--data.root={lip_root}", "--data.batch_size=1", "--data.crop_size=[32,32]"]
    assert main([verb, *other, "--model.network=hrnetv2_w18_small_v1", "--ckpt_path=best.ckpt"]) == 2
    told = capsys.readouterr().err
    assert (
        "best.ckpt comes from a training on the 11 classes of CamVid, but this task is on the 20 of LIP; leave" in told
    )


def test_a_constructor_that_raises_without_a_message(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "speechless.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        raise ValueError\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["fit", f"--config={recipe}", "--model.network={class_path: speechless.Net}"]) == 2
    assert "raised an exception without a message" in capsys.readouterr().err
