"""The cases: each alters the files of a place and says what to type in it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
import yaml
from PIL import Image

from tests.fuzz.mutations import VALUES, altered_bytes, altered_text, altered_tree, png
from tests.fuzz.place import FITTING, RECIPES, pick, put

CHECKPOINT = "run/checkpoints/best.ckpt"
SCORING = ["validate", "test", "predict"]
# of the verbs that are not Lightning's: how each is called rightly, and its options
_CALLS: dict[str, tuple[list[list[str]], list[str]]] = {
    "predict": (
        [["--images", "street", "--ckpt_path", CHECKPOINT]],
        [
            "--images",
            "--ckpt_path",
            "--labels",
            "--output",
            "--device",
            "--protocol",
            "--confidence",
            "--probabilities",
        ],
    ),
    "calibrate": (
        [["run", "--trainer.limit_val_batches=1"], [CHECKPOINT], ["run", "--config", "folder.yaml"]],
        ["--ckpt_path", "--config", "--data.root", "--model.val_protocol", "--run_dir", "--trust", "--help"],
    ),
    "prepare": (
        [
            ["pascal-context", "--root", "voc", "--json", "detail.json", "--workers", "1"],
            ["pascal-context", "--root", "voc", "--mat", "release", "--workers", "1"],
            ["pascal-context", "--root", "voc", "--voc_first", "VOC2010/SegmentationClassContext", "--workers", "1"],
        ],
        ["--root", "--json", "--mat", "--voc_first", "--overwrite"],
    ),
    "verify": (
        [["--config", "folder.yaml"], ["--guess", "mine", "--output", "c.yaml"], ["--config", "run/config.yaml"]],
        ["--json", "--guess", "--masks", "--mask_suffix", "--output", "--config", "--data", "--data.root"],
    ),
    "submit": ([["run"]], ["--output", "--root"]),
    "models": ([[], ["hrnetv2_w18"], ["*"]], ["--help"]),
    "weights": (
        [["list"], ["check"], ["convert", CHECKPOINT, "o.pth", "--to", "official"], ["get", "hrnetv2_w19.imagenet"]],
        ["--from", "--to", "--help"],
    ),
    "benchmark": (
        [
            ["hrnetv2_w18_small_v1", "--size", "64x64", "--device", "cpu", "--seconds", "0"],
            ["--ckpt_path", CHECKPOINT, "--size", "64x64", "--device", "cpu", "--seconds", "0"],
            ["--loader", "--config", "folder.yaml", "--seconds", "0"],
        ],
        [
            *("--size", "--batch_size", "--precision", "--device", "--seconds", "--output", "--ckpt_path"),
            *("--trust", "--loader", "--config"),
        ],
    ),
}
# how many processes there are; nothing on this machine is to find out how many it bears
_NUMBERS_OF_PROCESSES = ("num_workers", "devices", "num_nodes", "workers", "strategy", "plugins", "accelerator")
# what says how much there is to do
_LENGTHS = (
    "epochs",
    "steps",
    "time",
    "overfit",
    "fast_dev_run",
    "limit_",
    "repeats",
    "size",
    "num_classes",
    "interval",
)

Case = Callable[[random.Random, Path], tuple[list[str], str]]


def option_of_a_verb(rng: random.Random, place: Path) -> tuple[list[str], str]:
    """An option, or what stands without one, with a value that it is not meant for."""
    verb = rng.choice([*_CALLS])
    calls, options = _CALLS[verb]
    arguments = list(rng.choice(calls))
    kind = rng.choice(("option", "option", "argument", "drop", "add"))
    if kind == "option":
        arguments += [rng.choice(options), *([rng.choice(VALUES)] if rng.random() < 0.9 else [])]
    elif kind == "argument" and arguments:
        arguments[rng.randrange(len(arguments))] = rng.choice(VALUES)
    elif kind == "drop" and arguments:
        del arguments[rng.randrange(len(arguments))]
    else:
        arguments.insert(rng.randrange(len(arguments) + 1), rng.choice((*VALUES, "--nothing", "--help", "-x")))
    return [verb, *arguments], ""


# settings that are of the right kind, and yet unusual
_UNUSUAL = {
    "model": [
        *("network=hrformer_t", "network=hrnetv2_w18_cls", "network=hrnetv2p_w18", "network=torch.nn.Identity"),
        *("network_args={num_classes: 7}", "network_args={init: x}", "network_args={in_channels: 4}", "weights=no.pth"),
        *("optimizer=torch.optim.LBFGS", "optimizer=torch.optim.SparseAdam", "optimizer=torch.optim.Rprop"),
        *("optimizer={class_path: torch.optim.SGD, init_args: {lr: -1}}", "optimizer=hrseg.optim.Muon"),
        *("loss=torch.nn.CrossEntropyLoss", "loss=torch.nn.MSELoss", "loss=hrseg.losses.OhemCrossEntropyLoss"),
        *(
            "loss.class_weights=[0, 0]",
            "val_protocol=slide",
            "val_protocol={scales: []}",
            "val_protocol={window: [1, 1]}",
        ),
        *(
            "val_protocol={scales: [-1]}",
            "val_protocol={scales: [0.001]}",
            "mean=[0, 0]",
            "std=[0, 0, 0]",
        ),
        *(
            "schedule=torch.optim.lr_scheduler.CyclicLR",
            "schedule=step",
            "freeze=['*']",
            "freeze=[head]",
            "lr_factors={x: 1}",
        ),
        *("checkpoint_stages=[9]", "warmup_steps=1000000", "power=-1", "head_lr_factor=0", "loss_reduction=global"),
    ],
    "trainer": [
        *("precision=bf16-true", "precision=16-true", "precision=64-true", "precision=16-mixed", "strategy=fsdp"),
        *("strategy=deepspeed", "accelerator=gpu", "accelerator=tpu", "accelerator=mps"),
        *(
            "callbacks=EarlyStopping",
            "callbacks={class_path: EarlyStopping, init_args: {monitor: x}}",
            "barebones=true",
        ),
        *("callbacks=pytorch_lightning.callbacks.LearningRateFinder", "callbacks=[ModelCheckpoint, ModelCheckpoint]"),
        *("callbacks=BatchSizeFinder", "callbacks=StochasticWeightAveraging", "callbacks=ModelPruning"),
        *("logger=WandbLogger", "logger=true", "logger=CSVLogger", "profiler=simple", "profiler=x", "plugins=[x]"),
        *("fast_dev_run=true", "overfit_batches=1", "overfit_batches=-1", "detect_anomaly=true", "benchmark=true"),
        *(
            "limit_train_batches=0",
            "limit_val_batches=0",
            "limit_val_batches=2.5",
            "val_check_interval=0",
            "devices=[7]",
        ),
        *("gradient_clip_algorithm=x", "max_time=1", "max_time=00:00:00:01", "accumulate_grad_batches=0", "devices=0"),
        *("enable_checkpointing=false", "inference_mode=false", "sync_batchnorm=true", "deterministic=warn"),
    ],
    "data": [
        *(
            "crop_size=[0, 0]",
            "crop_size=[1, 1]",
            "crop_size=[32]",
            "crop_size=[-32, 32]",
            "crop_size=null",
            "batch_size=0",
        ),
        *(
            "crop_size=[1000000000, 1000000000]",
            "batch_size=1000000000",
            "batch_size=1",
            "eval_batch_size=0",
            "seed=-1",
        ),
        *("scale_range=[0, 0]", "scale_range=[2, 1]", "scale_range=[-1, 1]", "scale_range=[1000000, 1000000]"),
        *("base_size=[0, 0]", "base_size=0", "base_size=-5", "base_size=1000000000", "flip_probability=2", "seed=1e30"),
        *(
            "train_split=test",
            "val_split=train",
            "test_split=",
            "train_split=trainval",
            "predict_split=no",
            "cache=/proc/x",
        ),
        *(
            "color_jitter=-1",
            "color_jitter=1e30",
            "root=",
            "root=/dev/null",
            "root=street",
            "eval_batch_size=1000000000",
        ),
        *(
            "classes={}",
            "classes={names: []}",
            "classes={names: [a]}",
            "splits={train: 2}",
            "splits=[]",
            "masks=images",
        ),
    ],
    "": [
        "seed_everything=-1",
        "seed_everything=4294967296",
        "seed_everything=false",
        "timeout_minutes=-1",
        "run_dir=street/0.png",
    ],
}


@cache
def _settings(config: Path) -> list[str]:
    """The options of Lightning's verbs, from the complete config of a run."""
    found = []

    def walk(tree: dict[str, Any], above: str) -> None:
        for key, child in tree.items():
            name = f"{above}{key}"
            if key == "init_args":
                walk(child, above)
            elif key != "class_path":
                found.append(name)
                if isinstance(child, dict):
                    walk(child, f"{name}.")

    walk(yaml.safe_load(config.read_text()), "")
    return [*found, "ckpt_path", "run_dir", "experiment", "config", "model", "data", "trainer", "data.seed"]


def setting_of_lightning(rng: random.Random, place: Path) -> tuple[list[str], str]:
    """A setting of fit, validate, test or predict with a value that it is not meant for."""
    verb = rng.choice(["fit", "fit", *SCORING])
    name = rng.choice(_settings(place / "run/config.yaml"))
    given = rng.choice(VALUES)
    if any(part in name for part in _NUMBERS_OF_PROCESSES) and given.isdigit() and int(given) > 2:
        given = "-7"
    option = [f"--{name}={given}"] if rng.random() < 0.8 else [f"--{name}", given]
    for _ in range(rng.choice((0, 1, 1, 2))):
        part = rng.choice(list(_UNUSUAL))
        option = [*(option if rng.random() < 0.1 else []), f"--{part}{'.' if part else ''}{rng.choice(_UNUSUAL[part])}"]
    if verb == "fit":
        return [verb, "--config", rng.choice(RECIPES), *FITTING, *option], ""
    return [verb, "--ckpt_path", CHECKPOINT, "--trainer.limit_val_batches=1", *option], ""


def altered_config(rng: random.Random, place: Path) -> tuple[list[str], str]:
    """A recipe, a classes file, or the config beside a checkpoint, with something wrong in it."""
    path = pick(rng, place, "*.yaml", "mine/classes.yaml", "run/config.yaml", "run/config.yaml")
    text = path.read_text()
    if rng.random() < 0.5:
        content, done = altered_text(rng, text)
    else:
        tree, done = altered_tree(rng, yaml.safe_load(text))
        _hold_processes(tree)
        content = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "replace")
    put(path, content)
    name = path.relative_to(place).as_posix()
    done = f"{name}: {done}"
    if name == "mine/classes.yaml":
        return rng.choice((["fit", "--config", "folder.yaml", *FITTING], ["verify", "--config", "folder.yaml"])), done
    if name == "run/config.yaml":
        scoring = [rng.choice(SCORING), "--ckpt_path", CHECKPOINT, "--trainer.limit_val_batches=1"]
        return rng.choice((scoring, ["submit", "run"], ["verify", "--config", name], going_on(name))), done
    return rng.choice((["fit", "--config", name, *FITTING], ["verify", "--config", name])), done


def going_on(config: str) -> list[str]:
    """The run's training goes on."""
    return ["fit", "--config", config, "--run_dir", "run", "--trainer.max_steps=2", "--trainer.limit_val_batches=1"]


def _hold_processes(tree: Any) -> None:
    if isinstance(tree, dict):
        for key, child in tree.items():
            if key in _NUMBERS_OF_PROCESSES and isinstance(child, int | float) and not -10 < child < 3:
                tree[key] = -7
            _hold_processes(child)


def altered_checkpoint(rng: random.Random, place: Path) -> tuple[list[str], str]:
    """A run's checkpoint with other values in it, or with other bytes."""
    path = place / CHECKPOINT
    if rng.random() < 0.3:
        content, done = altered_bytes(rng, path.read_bytes())
        put(path, content)
    else:
        content = torch.load(path, weights_only=True)
        part = rng.choice(
            ("hrseg", "hrseg", "state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "")
        )
        tree = {part: content[part]} if part in content else content
        if part == "state_dict" and rng.random() < 0.5:
            name = rng.choice(list(content[part]))
            tensor = content[part][name]
            new = rng.choice((torch.zeros(3), tensor.double(), tensor.float() * float("nan"), [1], tensor.reshape(-1)))
            content[part][name], done = new, f"{name} = {type(new).__name__}"
        else:
            tree, done = altered_tree(rng, tree)
            content = {**content, **tree} if part else tree
            done = f"{part}: {done}"
        path.unlink()
        torch.save(content, path)
    if rng.random() < 0.3:
        put(place / "run/checkpoints/last.ckpt", path.read_bytes())
        return going_on("run/config.yaml"), done
    scoring = [[verb, "--ckpt_path", CHECKPOINT, "--trainer.limit_val_batches=1"] for verb in ("validate", "test")]
    images = ["predict", "--ckpt_path", CHECKPOINT, "--images", "street/0.png"]
    convert = ["weights", "convert", CHECKPOINT, "o.safetensors", "--to", "safetensors"]
    start = ["fit", "--config", "cityscapes.yaml", "--model.weights", CHECKPOINT, *FITTING]
    return rng.choice((*scoring, images, images, convert, start)), done


def altered_image(rng: random.Random, place: Path) -> tuple[list[str], str]:
    """An image or a label with other bytes, another header, or that is no file."""
    kind = rng.choice(("bytes", "bytes", "header", "mode", "special"))
    path = pick(rng, place, "street/*", "mine/images/*", "mine/masks/*", "cityscapes/**/*.png", "lip/**/*.jpg")
    if kind == "bytes":
        content, done = altered_bytes(rng, path.read_bytes())
        put(path, content)
    elif kind == "header":
        size = rng.choice(((0, 5), (5, 0), (40, 64), (2**31, 1), (2**31 - 1, 2**31 - 1), (30000, 30000), (3, 100000)))
        depth, color = rng.choice(((8, 0), (1, 0), (16, 0), (16, 2), (8, 2), (8, 3), (8, 6), (8, 4), (7, 9), (8, 1)))
        put(path, png(*size, depth, color, rng.choice((None, b"")), crc=rng.random() < 0.8))
        done = f"PNG of {size}, {depth} bits, colour type {color}"
    elif kind == "mode":
        mode = rng.choice(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"))
        suffix, options = rng.choice(
            (("PNG", {}), ("TIFF", {}), ("TIFF", {"save_all": True}), ("JPEG", {}), ("GIF", {}))
        )
        size = rng.choice(((64, 40), (1, 1), (1, 3000), (7, 7)))
        done = f"{suffix} of mode {mode}, {size} {options}"
        image = Image.new(mode, size)
        more = {"append_images": [image, image]} if options else {}
        path.unlink()
        try:
            image.save(path, suffix, **options, **more)
        except (OSError, ValueError, KeyError):
            put(path, png(64, 40, 16))
    else:
        path.unlink()
        done = rng.choice(("folder", "loop", "dangling", "zero", "fifo", "absent"))
        if done == "folder":
            path.mkdir()
        elif done == "fifo":
            os.mkfifo(path)
        elif done != "absent":
            path.symlink_to({"loop": path.name, "dangling": "nothing", "zero": "/dev/zero"}[done])
    done = f"{path.relative_to(place)}: {done}"
    first = path.relative_to(place).parts[0]
    if first == "street":
        return ["predict", "--ckpt_path", CHECKPOINT, "--images", rng.choice(("street", "street/*"))], done
    recipe = {"mine": "folder.yaml", "cityscapes": "cityscapes.yaml", "lip": "lip.yaml"}[first]
    verify = ["verify", "--config", recipe]
    guess = ["verify", "--guess", "mine", "--output", "c.yaml"]
    return rng.choice((verify, verify, guess, ["fit", "--config", recipe, *FITTING])), done


def altered_table(rng: random.Random, place: Path) -> tuple[list[str], str]:
    """What a run logged, a list of a data set, or what PASCAL-Context is made from, altered."""
    path = pick(rng, place, "run/metrics.csv", "lip/**/*.txt", "VOC2010/**/*.txt", "detail.json", "release/**/*")
    name = path.relative_to(place).as_posix()
    if name.endswith(".json") and rng.random() < 0.7:
        tree, done = altered_tree(rng, json.loads(path.read_text()))
        put(path, json.dumps(tree, default=str).encode("utf-8", "replace"))
    elif name.endswith(".mat") and rng.random() < 0.7:
        new = rng.choice(
            (
                np.full((10, 12), 70000, np.uint32),
                np.full((10, 12), -1.5),
                np.zeros((3, 10, 12), np.uint16),
                np.zeros((0, 0), np.uint16),
                "text",
                np.array([[1, "a"], [None, 2]], object).astype(str),
                np.full((10, 12), np.nan),
                np.full((9, 12), 2, np.uint16),
                np.array([[1 + 2j]]),
            )
        )
        scipy.io.savemat(path, {rng.choice(("LabelMap", "LabelMap", "labelmap")): new})
        done = f"{type(new).__name__} {getattr(new, 'dtype', '')} {getattr(new, 'shape', '')}"
    elif name.endswith(".mat"):
        content, done = altered_bytes(rng, path.read_bytes())
        put(path, content)
    else:
        content, done = altered_text(rng, path.read_text())
        put(path, content)
    done = f"{name}: {done}"
    if name == "run/metrics.csv":
        return going_on("run/config.yaml"), done
    if name.startswith(("lip", "VOC2010")):
        recipe = "lip.yaml" if name.startswith("lip") else "pascal.yaml"
        return rng.choice((["verify", "--config", recipe], ["fit", "--config", recipe, *FITTING])), done
    source = ["--json", "detail.json"] if name == "detail.json" else ["--mat", "release"]
    return ["prepare", "pascal-context", "--root", "voc", *source, "--workers", "1"], done


CASES: list[Case] = [
    *[option_of_a_verb] * 3,
    *[setting_of_lightning] * 3,
    *[altered_config] * 3,
    *[altered_checkpoint] * 2,
    *[altered_image] * 3,
    *[altered_table] * 2,
]


def is_long(arguments: list[str], done: str) -> bool:
    """Whether the case may rightly take any time: it says how much there is to do."""
    return any(part in text for part in _LENGTHS for text in (*arguments[1:], done) if text not in FITTING)
