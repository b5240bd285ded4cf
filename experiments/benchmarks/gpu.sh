#!/usr/bin/env bash
# Measures prediction (W18 and W48 at 1024x2048) and training (512x1024) on one GPU, in under 9 minutes.
#
#     bash experiments/benchmarks/gpu.sh                        rows: $OUT/benchmark_gpu.csv or experiments/results/
#     bash experiments/benchmarks/gpu.sh --device cpu --quick   shows that it runs, on any machine
#
# Needs Python 3.10 or later with torch, timm, pytorch-lightning, torchmetrics, OpenCV and lazy_loader; hrseg itself need
# not be installed. Without .git, give --commit.
set -eu
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m experiments.benchmarks.gpu "$@"
