"""What all networks of hrseg have in common: a description of themselves, and a part that fine-tuning starts anew."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn


class Network(nn.Module):
    """A network that `create_model` builds.

    Attributes:
        head_names: The attributes that make up the head: what fine-tuning starts anew or trains faster.
        config: Name and constructor arguments as plain values, from which `create_model` builds the network again.
            Empty for a network built without it.
    """

    head_names: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
