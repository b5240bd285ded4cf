"""Health check of a container: imports hrseg and runs a small network on the CPU, beside whatever trains."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the training's GPU has no memory to spare
os.environ["OMP_NUM_THREADS"] = "1"

import torch

import hrseg

net = hrseg.create_model("hrnetv2_w18_small_v1", num_classes=2).eval()
with torch.inference_mode():
    logits = net(torch.zeros(1, 3, 64, 64))
if logits.shape != (1, 2, 64, 64) or not logits.isfinite().all():
    raise SystemExit(f"hrnetv2_w18_small_v1 gave logits {tuple(logits.shape)}, finite: {bool(logits.isfinite().all())}")
