"""Communication and predicted throughput of data-parallel training on up to 512 GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from experiments.benchmarks.cluster import Cluster, Training, predict
from experiments.benchmarks.interleaved import Row
from experiments.benchmarks.traffic import Traffic, traffic_of
from hrseg.errors import ConfigError
from hrseg.models.catalog import MODELS
from hrseg.utils.files import replacing

GPUS = tuple(2**power for power in range(10))
NETWORKS = ("hrnetv2_w18_small_v1", "hrnetv2_w18", "hrnetv2_w48", "hrnetv2_w48_ocr")
BANDWIDTHS = (25.0, 3.125)  # GB/s between nodes: InfiniBand with 200 Gbit/s, Ethernet with 25 Gbit/s
BATCH = 12  # of the published recipes for Cityscapes
RATE = 20e12  # FLOP/s of a GPU: assumed, for mixed precision
_CROP_SHARE = 512 * 1024 / (1024 * 2048)  # of the pixels for which the catalog counts multiply-adds


@dataclass(frozen=True)
class Case:
    """A network on a cluster.

    Args:
        title: The network and its step time.
        variant: Bandwidth, batch norm and batch size.
        training: The training on one GPU.
        cluster: The cluster.
        gpus: Numbers of GPUs.
    """

    title: str
    variant: str
    training: Training
    cluster: Cluster
    gpus: tuple[int, ...]


class Scaling:
    """Predictions for some networks.

    Args:
        networks: Names of the networks.
        step_time: Seconds per step on one GPU; None assumes 20 TFLOP/s, a training step of three forward passes, and
            crops of 512x1024.
        crops: Crops per step on one GPU.
        bandwidths: GB/s between nodes.
        gpus_per_node: GPUs of a node.

    Raises:
        UnknownNameError: No network has that name.
        ConfigError: One step time is given for several networks.
    """

    def __init__(
        self,
        networks: Sequence[str] = NETWORKS,
        step_time: float | None = None,
        crops: int = 3,
        bandwidths: Sequence[float] = BANDWIDTHS,
        gpus_per_node: int = 8,
    ) -> None:
        if step_time is not None and len(networks) != 1:
            raise ConfigError("--step_time is the step time of one network; give --network NAME too")
        self.networks = networks
        self.step_time = step_time
        self.crops = crops
        self.bandwidths = bandwidths
        self.gpus_per_node = gpus_per_node

    def rows(self) -> list[Row]:
        """Communication of each network, then crops per second with the efficiency as ratio."""
        rows = []
        for network, traffic in self._traffic.items():
            rows += [
                Row("scaling", network, "gradients of a step", traffic.gradients / 1e6, "MB"),
                Row("scaling", network, "buffers of a step", traffic.buffers / 1e6, "MB"),
                Row("scaling", network, "messages of SyncBN in a step", 2 * len(traffic.norm_channels), ""),
            ]
            for gpus in (8, 64, 512):
                for sync_bn in (False, True):
                    side = f"sent by each of {gpus} GPUs{', SyncBN' if sync_bn else ''}"
                    rows.append(Row("scaling", network, side, traffic.sent(gpus, sync_bn) / 1e6, "MB"))
        for case in self.cases():
            for gpus in case.gpus:
                prediction = predict(case.training, case.cluster, gpus)
                rows.append(
                    Row(
                        "scaling",
                        f"{case.title}; {case.variant}",
                        f"{gpus} GPUs",
                        prediction.throughput,
                        "crops/s",
                        prediction.efficiency,
                    )
                )
        return rows

    def cases(self) -> Iterator[Case]:
        """The predicted cases: first with equal crops on each GPU, then with a batch of 12 over all."""
        for network, traffic in self._traffic.items():
            seconds, source = self.step_time, "given"
            if seconds is None:
                seconds, source = 6 * MODELS[network].multiply_adds * _CROP_SHARE * self.crops / RATE, "assumed"
            plain, synchronised = (Training(seconds, self.crops, traffic, sync_bn) for sync_bn in (False, True))
            title = f"{network}, {self.crops} crops in {seconds:.3g} s on one GPU ({source})"
            for bandwidth in self.bandwidths:
                cluster = Cluster(bandwidth * 1e9, self.gpus_per_node)
                for training in (plain, synchronised):
                    variant = f"{bandwidth:g} GB/s{', SyncBN' if training.sync_bn else ''}"
                    yield Case(title, variant, training, cluster, GPUS)
            cluster = Cluster(self.bandwidths[0] * 1e9, self.gpus_per_node)
            for gpus in (number for number in range(1, BATCH + 1) if BATCH % number == 0):
                for training in (plain, synchronised):
                    variant = f"batch {BATCH}{', SyncBN' if training.sync_bn else ''}"
                    yield Case(title, variant, training.with_crops(BATCH / gpus), cluster, (gpus,))

    @cached_property
    def _traffic(self) -> dict[str, Traffic]:
        return {network: traffic_of(network) for network in self.networks}

    def plot(self, path: Path) -> None:
        """Plots the efficiencies as SVG or PNG, by the suffix of the path.

        Raises:
            OutputError: The file cannot be written.
        """
        import matplotlib  # comes with cityscapesscripts; takes a while to import
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        figure = Figure(figsize=(4.2 * len(self.bandwidths), 3.8), layout="constrained")
        panels = figure.subplots(1, len(self.bandwidths), sharey=True, squeeze=False)[0]
        colors = dict(zip(self.networks, matplotlib.color_sequences["tab10"], strict=False))
        for panel, bandwidth in zip(panels, self.bandwidths, strict=True):
            for case in self.cases():
                if case.cluster.bandwidth == bandwidth * 1e9 and case.gpus == GPUS:
                    efficiency = [100 * predict(case.training, case.cluster, gpus).efficiency for gpus in GPUS]
                    network = case.title.partition(",")[0]
                    panel.plot(GPUS, efficiency, "--" if case.training.sync_bn else "-", color=colors[network])
            panel.set_xscale("log", base=2)
            panel.set_xticks(GPUS, [str(number) for number in GPUS])
            panel.set_title(f"{bandwidth:g} GB/s between nodes of {self.gpus_per_node}")
            panel.set_xlabel("GPUs")
            panel.set_ylim(0, 102)
            panel.grid(alpha=0.3)
        panels[0].set_ylabel("efficiency, %, predicted")
        lines = [Line2D([], [], color=color, label=network) for network, color in colors.items()]
        lines.append(Line2D([], [], color="gray", linestyle="--", label="with SyncBN"))
        figure.legend(handles=lines, loc="outside lower center", ncols=3, frameon=False)
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hrseg"}), replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)


def format_scaling(rows: Sequence[Row]) -> str:
    """A line per count of communication; then throughputs with efficiencies, a column per number of GPUs."""
    sent = [row for row in rows if row.ratio is None]
    width = max((len(row.side) for row in sent), default=0)
    lines = []
    for network, group in groupby(sent, key=lambda row: row.case):
        lines.append(network)
        lines += [f"  {row.side.ljust(width)}  {row.value:>9.4g} {row.unit}".rstrip() for row in group]
    predicted = [row for row in rows if row.ratio is not None]
    lines += ["", "predicted crops per second, and efficiency"]
    for title, of_title in groupby(predicted, key=lambda row: row.case.partition("; ")[0]):
        lines += ["", title]
        header: list[str] = []
        variants: dict[str, list[Row]] = {}
        for row in of_title:
            variants.setdefault(row.case.partition("; ")[2], []).append(row)
        for variant, of_variant in variants.items():
            sides = [row.side.partition(" ")[0] for row in of_variant]
            if sides != header:
                header = sides
                lines.append(f"  {'GPUs':20}" + "".join(side.rjust(12) for side in sides))
            cells = (f"{row.value:.{0 if row.value >= 100 else 1}f} {row.ratio:4.0%}" for row in of_variant)
            lines.append(f"  {variant:20}" + "".join(cell.rjust(12) for cell in cells))
    return "\n".join(lines)
