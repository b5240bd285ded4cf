"""Deterministic mode: two runs are bit-equal, and no operation is used that raises in it on a GPU.

There is no GPU here: what a step dispatches on the CPU is recorded, and looked up among the operations that raise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hrseg.cli import main
from hrseg.losses import SegmentationLoss
from hrseg.models import create_model, list_models
from hrseg.optim import Muon
from tests.losses.test_losses import LOSSES, batch
from tests.restarts import RECIPE, rows

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
OVERLAY = EXPERIMENTS / "options" / "deterministic.yaml"

# By their names in torch.ops.aten. Those for which libtorch_cuda.so of torch 2.14 calls `alertNotDeterministic`, those
# that the documentation of `torch.use_deterministic_algorithms` lists, and kthvalue, which earlier versions listed.
# Some raise for certain arguments only (histc of floats, bincount with weights, scatter_reduce of products); hrseg uses
# them for none. Scatter, gather, index and cumsum are not here: torch has a deterministic form, which it then takes.
RAISING = {
    "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward",
    "_ctc_loss_backward",
    "_embedding_bag_dense_backward",
    "_upsample_bicubic2d_aa_backward",
    "_upsample_bilinear2d_aa_backward",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "bincount",
    "cudnn_grid_sampler_backward",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward",
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "histc",
    "index_reduce",
    "index_reduce_",
    "kthvalue",
    "max_pool3d_with_indices_backward",
    "max_unpool2d",
    "max_unpool3d",
    "median",
    "nanmedian",
    "nll_loss2d_forward",
    "nll_loss_forward",
    "put",
    "put_",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "reflection_pad3d_backward",
    "replication_pad1d_backward",
    "replication_pad2d_backward",
    "replication_pad3d_backward",
    "scatter_reduce",
    "scatter_reduce_",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward",
    "upsample_linear1d_backward",
    "upsample_trilinear3d_backward",
}

# its pyramid of 1, 2, 3 and 6 pooled pixels is segmentation_models_pytorch's; `trainer.deterministic: warn` trains it
RAISING_BASELINES = {"upernet_convnext_tiny_b8_512x1024_80k": {"_adaptive_avg_pool2d_backward"}}
SMALL_ENCODERS = {"resnet101": "resnet18", "mit_b2": "mit_b0", "tu-convnext_tiny": "tu-convnext_atto"}


@pytest.fixture(autouse=True)
def restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder to run in, and everything as it was afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # Lightning sets it
    mode, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.set_num_threads(threads)


# ---------------------------------------------------------------------------------------------------------- bit-equal


@pytest.mark.parametrize("threads", [1, 2])
def test_two_runs_are_equal_to_the_last_bit(threads: int, camvid_root: Path) -> None:
    recipe = RECIPE.format(root=camvid_root, batch_size=2, crop_size=[32, 48], epochs=1)
    Path("recipe.yaml").write_text(f"{recipe.rstrip()}\n  benchmark: true")  # as in the recipes for GPUs
    torch.set_num_threads(threads)
    files = []
    for run in ("one", "other"):
        for disturb in (random.seed, np.random.seed, torch.manual_seed):  # the state that a run finds
            disturb(len(files))
        options = ["--config=recipe.yaml", f"--config={OVERLAY}", f"--run_dir={run}", "--data.num_workers=2"]
        assert main(["fit", *options]) == 0
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cudnn.benchmark
        files.append(torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True))
    one, other = files
    assert one["global_step"] == other["global_step"] == 2
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    moments, others = (file["optimizer_states"][0]["state"] for file in files)
    assert moments
    assert all(torch.equal(moments[i]["momentum_buffer"], others[i]["momentum_buffer"]) for i in moments)
    assert rows(Path("one"))
    assert rows(Path("one")) == rows(Path("other"))


# ------------------------------------------------------------------------------------------------- nothing that raises


class Recorder(TorchDispatchMode):
    """Notes the names of the operations that tensors go through, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Records what is done in deterministic mode, with the Python code of torch and hrseg taking tensors for a GPU's.

    So `F.interpolate` takes the form whose backward pass does not raise, and the confusion matrix is counted otherwise.
    The kernels below are the CPU's. Where those of a GPU have another name, of convolutions, batch norm and attention,
    torch chooses deterministic ones by itself.
    """
    torch.use_deterministic_algorithms(True)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    return Recorder()


def train(network: nn.Module, recorder: Recorder, size: tuple[int, int] = (64, 96)) -> set[str]:
    """The operations that raise, out of those of a forward and a backward pass."""
    with recorder:
        results = tree_leaves(getattr(network, "outputs", network)(torch.randn(2, 3, *size)))
        # enlarged as the losses do it
        maps = [F.interpolate(x, size, mode="bilinear") if x.ndim == 4 else x for x in results]
        torch.stack([x.square().mean() for x in maps]).sum().backward()
    assert "convolution_backward" in recorder.names
    return recorder.names & RAISING


@pytest.mark.parametrize("name", [*list_models("*_w18_small_v1*"), *list_models("hrformer_t*")])
def test_networks(name: str, recorder: Recorder) -> None:
    assert train(create_model(name), recorder) == set()
    assert "upsample_bilinear2d" not in recorder.names


@pytest.mark.parametrize(
    "options",
    [{"align_corners": True}, {"fuse_mode": "nearest"}, {"checkpoint_stages": [1, 2, 3, 4]}],
    ids=lambda options: next(iter(options)),
)
def test_options_of_networks(options: dict[str, Any], recorder: Recorder) -> None:
    assert train(create_model("hrnetv2_w18_small_v1", **options), recorder) == set()


@pytest.mark.parametrize("recipe", sorted(EXPERIMENTS.glob("baselines/*.yaml")), ids=lambda path: path.stem)
def test_networks_of_the_baselines(recipe: Path, recorder: Recorder) -> None:
    network = yaml.safe_load(recipe.read_text())["model"]["network"]
    module, name = network["class_path"].rsplit(".", 1)
    options = {**network["init_args"], "encoder_weights": None}
    options["encoder_name"] = SMALL_ENCODERS.get(options["encoder_name"], options["encoder_name"])
    built = getattr(import_module(module), name)(**options)
    assert train(built, recorder) == RAISING_BASELINES.get(recipe.stem, set())


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("create", LOSSES.values(), ids=LOSSES.keys())
def test_losses(create: Callable[[], SegmentationLoss], align_corners: bool, recorder: Recorder) -> None:
    _, target = batch(size=(11, 9))
    logits, _ = batch(size=(3, 2))
    loss = create()
    loss.bind(ignore_index=255, align_corners=align_corners)
    with recorder:
        loss(logits.requires_grad_(), target).backward()
    assert "_unsafe_index_put" in recorder.names  # the backward pass of the enlargement
    assert recorder.names & RAISING == set()


@pytest.mark.parametrize(
    "create",
    [
        # with `foreach`, as on a GPU
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1, foreach=True),
        partial(torch.optim.AdamW, foreach=True),
        Muon,
    ],
    ids=["SGD", "AdamW", "Muon"],
)
def test_optimisers(create: Callable[..., torch.optim.Optimizer], recorder: Recorder) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = create(network.parameters())
    with recorder:
        for _ in range(2):
            network(torch.randn(2, 3, 8, 8)).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1, foreach=True)
            optimizer.step()
    assert recorder.names & RAISING == set()


class Event:
    """Of a GPU, which is never waited for."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


def test_a_whole_training_and_a_test_in_all_views(
    camvid_root: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    Path("recipe.yaml").write_text(RECIPE.format(root=camvid_root, batch_size=2, crop_size=[48, 64], epochs=1))
    options = ["--config=recipe.yaml", f"--config={OVERLAY}", "--data.num_workers=0"]
    views = "{scales: [0.5, 1.0], flip: true, window: [32, 32], fusion: softmax}"
    with recorder:
        assert main(["fit", *options, "--run_dir=run"]) == 0
        training = set(recorder.names)
        assert main(["test", *options, "--ckpt_path=run/checkpoints/last.ckpt", f"--model.test_protocol={views}"]) == 0
    # trained, predicted, counted as on a GPU, where argmax stands for max
    assert {"convolution_backward", "max", "scatter_add_"} <= training
    assert (recorder.names | {"argmax"}) & RAISING == set()


# ------------------------------------------------------------------------------------------------------ the list itself


def test_the_list_names_operations_of_torch() -> None:
    assert [name for name in sorted(RAISING) if not hasattr(torch.ops.aten, name)] == []


@pytest.mark.parametrize(
    ("work", "name"),
    [
        (lambda x: F.cross_entropy(x, x.new_zeros(2, 8, 8).long()), "nll_loss2d_forward"),
        (lambda x: F.cross_entropy(x[..., 0, 0], x.new_zeros(2).long()), "nll_loss_forward"),
        (lambda x: F.adaptive_avg_pool2d(x, 2), "_adaptive_avg_pool2d_backward"),
        (lambda x: F.adaptive_max_pool2d(x, 2), "adaptive_max_pool2d_backward"),
        (lambda x: F.interpolate(x, (9, 9), mode="bicubic"), "upsample_bicubic2d_backward"),
        (lambda x: F.interpolate(x, (9, 9), mode="bilinear", antialias=True), "_upsample_bilinear2d_aa_backward"),
        (lambda x: torch.ops.aten.upsample_bilinear2d(x, [9, 9], False), "upsample_bilinear2d_backward"),
        (lambda x: F.grid_sample(x, x.new_zeros(2, 4, 4, 2), align_corners=False), "grid_sampler_2d_backward"),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "reflection_pad2d_backward"),
        (lambda x: x * torch.histc(x.detach()).sum(), "histc"),
        (lambda x: x * torch.bincount(x.detach().flatten().long().abs()).sum(), "bincount"),
        (lambda x: x.median(1).values, "median"),
        (lambda x: x.kthvalue(1, 1).values, "kthvalue"),
        (lambda x: x.scatter_reduce(1, x.detach().long().clamp(0, 0), x, "prod"), "scatter_reduce"),
    ],
)
def test_operations_that_raise_are_seen(work: Callable[[Tensor], Tensor], name: str, recorder: Recorder) -> None:
    with recorder:
        work(torch.randn(2, 3, 8, 8, requires_grad=True)).sum().backward()
    assert recorder.names & RAISING == {name}


def test_pooling_to_one_pixel_is_a_mean(recorder: Recorder) -> None:
    """Heads of other libraries do it, and it does not raise."""
    with recorder:
        F.adaptive_avg_pool2d(torch.randn(2, 3, 8, 8, requires_grad=True), 1).sum().backward()
    assert recorder.names & RAISING == set()
