"""What is different where a notebook's kernel runs the code."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jupyter_client import BlockingKernelClient, KernelManager
from pytorch_lightning import Trainer

from tests.notebooks.running import ROOT

EIGHT_GPUS = """
import torch
torch.cuda.device_count = lambda: 8
"""
TRAINING = """
import hrseg
data = hrseg.StreetScenesDataModule(
    image_size=(64, 64), crop_size=(64, 64), num_train=8, num_val=2, num_test=1, batch_size=2, num_workers=2
)
task = hrseg.SegmentationTask("hrnetv2_w18_small_v1", labels=data.labels, network_args={"init": "kaiming"})
"""


class Kernel:
    """A kernel and the cells that are run in it."""

    def __init__(self, client: BlockingKernelClient, manager: KernelManager) -> None:
        self.client = client
        self.manager = manager

    def run(self, code: str, interrupt_at: str | None = None) -> tuple[dict[str, Any], str]:
        """The reply to a cell and the text that it showed; interrupts it when that text is among it."""
        request = self.client.execute(code)
        text = ""
        while True:
            message = self.client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            text += content.get("text") or content.get("data", {}).get("text/plain", "")
            if interrupt_at is not None and interrupt_at in text:
                self.manager.interrupt_kernel()
                interrupt_at = None
        return self.client.get_shell_msg(timeout=60)["content"], text


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(tmp_path / ".kernel"))
    manager.start_kernel(
        cwd=str(tmp_path), env={**os.environ, "PYTHONPATH": str(ROOT), "HRSEG_HOME": str(tmp_path / "home")}
    )
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        yield Kernel(client, manager)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_one_device_is_used_by_default(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    outside = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path)
    assert outside.num_devices == 8
    reply, text = kernel.run(
        EIGHT_GPUS
        + TRAINING
        + "\nfrom pytorch_lightning import Trainer\nTrainer.fit = lambda *args, **kwargs: None\n"  # there are no GPUs
        + "trainer = hrseg.fit(task, data, run_dir='run', max_epochs=1)\n"
        + "print(trainer.num_devices, trainer.strategy.root_device, type(trainer.progress_bar_callback).__name__)"
    )
    assert reply["status"] == "ok", reply
    assert text.splitlines()[-1] == "1 cuda:0 NotebookProgress"


def test_an_interrupted_cell_leaves_a_kernel_that_goes_on(kernel: Kernel, tmp_path: Path) -> None:
    assert kernel.run(TRAINING)[0]["status"] == "ok"
    reply, text = kernel.run("hrseg.fit(task, data, run_dir='run', max_epochs=1000)", interrupt_at="epoch 1/1000")
    assert reply["status"] == "error"
    assert reply["ename"] == "KeyboardInterrupt"
    assert "stopped at step" in text or "stopped; run/checkpoints/last.ckpt holds step" in text
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()

    wait_for_workers(kernel)

    reply, text = kernel.run(
        "trainer = hrseg.fit(task, data, run_dir='run', max_epochs=1000, max_time={'seconds': 1}); "
        "print('went on to', trainer.global_step)"
    )
    assert reply["status"] == "ok", reply
    assert int(text.split("went on to ")[1]) > 0
    wait_for_workers(kernel)


def wait_for_workers(kernel: Kernel) -> None:
    """Until no loading process is left over; they end by themselves."""
    deadline = time.monotonic() + 30
    while kernel.run("import psutil; print(len(psutil.Process().children()))")[1].strip() != "0":
        assert time.monotonic() < deadline, "loading processes are left over"
