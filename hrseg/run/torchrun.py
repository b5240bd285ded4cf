"""What torchrun tells of the processes that it started, and what they share."""

from __future__ import annotations

import os
from collections.abc import Callable

from hrseg.run.slurm import Tasks


def tasks() -> Tasks | None:
    """How many processes there are; None where this one was not started by torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    per_node = int(os.environ["LOCAL_WORLD_SIZE"])
    return Tasks(int(os.environ["WORLD_SIZE"]) // per_node, per_node, "torchrun")


def agreed(name: str, choose: Callable[[], str]) -> str:
    """What the first process chooses, for all of them, however often torchrun starts them again.

    Args:
        name: Under which it is kept.
        choose: Called once, in the first process.
    """
    from torch import distributed  # not for other verbs

    store = distributed.TCPStore(  # type: ignore[attr-defined]  # documented, but not declared
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    if os.environ["RANK"] == "0" and not store.check([name]):
        store.set(name, choose())
    value: str = store.get(name).decode()
    return value
