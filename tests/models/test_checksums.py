"""Outputs of every network with weights from a formula, to six digits: no refactoring may change them.

The figures are of our own making, and say nothing of what is right; the other tests compare with the published code.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hrseg.models import Network, create_model

SMALL_V1, SMALL_V2 = "hrnetv2_w18_small_v1", "hrnetv2_w18_small_v2"
OCR = {"num_classes": 5, "mid_channels": 32, "key_channels": 16}
OPENSEG = {"inner_bias": True, "aux_kernel": 3, "aux_channels": 24}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "V2": (SMALL_V1, {"num_classes": 5}),
    "V2 small v2": (SMALL_V2, {"num_classes": 5}),
    "V2 nearest": (SMALL_V1, {"num_classes": 5, "fuse_mode": "nearest"}),
    "V2 aligned": (SMALL_V1, {"num_classes": 5, "align_corners": True}),
    "OCR": (f"{SMALL_V1}_ocr", {"num_classes": 5}),
    "OCR small v2": (f"{SMALL_V2}_ocr", OCR),
    "OCR not aligned, nearest": (f"{SMALL_V1}_ocr", OCR | {"align_corners": False, "fuse_mode": "nearest"}),
    "OCR of openseg": (f"{SMALL_V1}_ocr", OCR | OPENSEG),
    "OCR multi-scale": (f"{SMALL_V1}_ocr_hmsa", OCR),
    "OCR three scales": (f"{SMALL_V2}_ocr_hmsa", OCR | {"scales": [0.5, 1.0, 1.5]}),
    "PSA p": (f"{SMALL_V1}_psa_p", {"num_classes": 5}),
    "PSA s": (f"{SMALL_V1}_psa_s", {"num_classes": 5}),
    "PSA p OCR": (f"{SMALL_V1}_psa_p_ocr", OCR | {"align_corners": True}),
    "PSA s OCR": (f"{SMALL_V2}_psa_s_ocr", OCR | {"align_corners": True}),
    "PSA p OCR multi-scale": (f"{SMALL_V1}_psa_p_ocr_hmsa", OCR),
    "PSA s OCR multi-scale": (f"{SMALL_V1}_psa_s_ocr_hmsa", OCR),
    "V1": ("hrnetv1_w18_small_v1", {"num_classes": 5, "fuse_mode": "bilinear"}),
    "V1 small v2, nearest": ("hrnetv1_w18_small_v2", {"num_classes": 5, "fuse_mode": "nearest"}),
    "V2p": ("hrnetv2p_w18_small_v1", {}),
    "V2p small v2": ("hrnetv2p_w18_small_v2", {}),
    "classifier": (f"{SMALL_V1}_cls", {"num_classes": 7}),
    "classifier small v2": (f"{SMALL_V2}_cls", {"num_classes": 7}),
    "HRFormer": ("hrformer_t", {"num_classes": 7}),
    "HRFormer OCR": ("hrformer_t_ocr", {"num_classes": 5}),
    "HRFormer OCR, window 5": ("hrformer_t_ocr", {"num_classes": 5, "window_size": 5}),
}

# sum, sum of absolute values, and the values at a quarter, half and three quarters of the tensor
CHECKSUMS: dict[str, tuple[float, float, float, float, float]] = {
    "V2": (-31423.5665, 135451.841, -5.81135702, 0.824022917, -6.50653596),
    "V2 small v2": (-127149.544, 482915.645, -12.8545338, 2.9110027, -16.6098917),
    "V2 nearest": (-32540.7998, 136654.509, -5.61430623, 0.877453876, -6.13318008),
    "V2 aligned": (-39519.3337, 144704.106, -5.94632001, 0.702542254, -6.67523539),
    "OCR": (9642.06354, 86249.1086, -4.91421165, 0.109432208, -5.05398156),
    "OCR small v2": (-119310.968, 337536.389, -14.8559686, 3.6706336, -12.6413189),
    "OCR not aligned, nearest": (-2784.16339, 39435.4963, -1.65232476, 0.365323629, -1.02056982),
    "OCR of openseg": (-3351.36648, 39586.4481, -1.7999813, 0.271346089, -1.20688356),
    "OCR multi-scale": (-1958.3947, 27133.4259, -1.07775924, 0.278233354, -0.877334848),
    "OCR three scales": (-55721.2212, 185116.305, -10.8837705, 1.33394506, -9.77303761),
    "PSA p": (-31727.2933, 130301.523, -5.1680449, 1.17473443, -5.89068257),
    "PSA s": (-21625.4922, 47807.3444, -1.91051731, 0.0949858306, -2.36072509),
    "PSA p OCR": (-4004.43296, 43133.7918, -1.80601228, 0.486503528, -1.41156796),
    "PSA s OCR": (2118.47006, 56526.1667, -2.44970115, 0.254861332, -2.00669024),
    "PSA p OCR multi-scale": (-2200.09215, 26935.6044, -1.09609718, 0.339415853, -0.918174019),
    "PSA s OCR multi-scale": (-751.021239, 13236.3495, -0.531705541, 0.249827441, -0.372508917),
    "V1": (159349.169, 207846.869, -3.06105845, 4.88618629, -3.39020074),
    "V1 small v2, nearest": (568366.622, 1229964.72, -38.0175031, 45.2996004, -27.6535146),
    "V2p": (-43452.9623, 623908.998, 4.41906178, -4.68267247, 5.40606063),
    "V2p small v2": (391726.091, 5287705.57, -13.7220775, 52.9823944, 1.60415735),
    "classifier": (9.74430628, 32.5766648, 3.06811876, -0.486724157, 3.07520601),
    "classifier small v2": (85.3783025, 316.959511, 16.2821698, -19.5556236, 15.8419907),
    "HRFormer": (103.222878, 140.301839, 1.22779979, -7.25792142, 1.26438966),
    "HRFormer OCR": (17521.4487, 328810.019, -8.43933635, -6.88397268, -10.5883754),
    "HRFormer OCR, window 5": (17892.3824, 379701.671, -15.7401172, -9.24179886, -14.7260727),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Maps this small are not worth a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(name: str, count: int) -> Tensor:
    """Numbers in -1..1 that depend on the name only, by integer arithmetic: the same on every machine."""
    x = np.arange(count, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x45D9F3B), (15, 0x2C1B3C6D), (16, 1)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    return torch.from_numpy(x.astype(np.float64) / 2**31 - 1)


def fill(network: Network) -> Network:
    """In double precision, with weights that keep signals alive, and running statistics that matter."""
    network = network.double().eval()
    for name, entry in network.state_dict().items():
        if not entry.is_floating_point():
            continue
        values = noise(name, entry.numel()).reshape(entry.shape)
        if name.endswith("bias_table"):
            values *= 0.5
        elif entry.ndim > 1:
            values *= math.sqrt(3 / entry[0].numel())
        elif name.endswith(("running_var", "weight")):
            values = 1 + 0.4 * values
        else:
            values *= 0.2
        entry.copy_(values)
    return network


def output_of(case: str) -> Tensor:
    name, arguments = CASES[case]
    images = 2 * noise("images", 2 * 3 * 65 * 71).reshape(2, 3, 65, 71)
    output = fill(create_model(name, **arguments))(images)
    return torch.cat([part.flatten() for part in ([output] if isinstance(output, Tensor) else output.values())])


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_unchanged(case: str) -> None:
    with torch.no_grad():
        values = output_of(case)
    sums = [values.sum().item(), values.abs().sum().item()]
    picked = [values[len(values) * quarter // 4].item() for quarter in (1, 2, 3)]
    now = f"now {tuple(float(f'{value:.9g}') for value in (*sums, *picked))}"
    assert case in CHECKSUMS, now
    total, absolute, *before = CHECKSUMS[case]
    assert sums == pytest.approx([total, absolute], rel=0, abs=1e-6 * absolute), now
    assert picked == pytest.approx(before, rel=0, abs=1e-6 * values.abs().max().item()), now


def test_differences_are_noticed() -> None:
    assert list(CHECKSUMS) == list(CASES)
    assert len({row[1] for row in CHECKSUMS.values()}) == len(CASES)
