"""The processes started by torchrun, and values that they share."""

from __future__ import annotations

import os
from collections.abc import Callable

from hrseg.run.slurm import Tasks


def tasks() -> Tasks | None:
    """Nodes and processes per node; None if torchrun did not start this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    per_node = int(os.environ["LOCAL_WORLD_SIZE"])
    return Tasks(int(os.environ["WORLD_SIZE"]) // per_node, per_node, "torchrun")


def agreed(name: str, choose: Callable[[], str]) -> str:
    """Returns rank 0's choice on all ranks, also after a restart by torchrun.

    Args:
        name: Key in torchrun's store.
        choose: Called once, on rank 0.
    """
    from torch import distributed  # not for other verbs

    store = distributed.TCPStore(  # type: ignore[attr-defined]  # documented, but not declared
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    if os.environ["RANK"] == "0" and not store.check([name]):
        store.set(name, choose())
    value: str = store.get(name).decode()
    return value
