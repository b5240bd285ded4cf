"""PyTorch's own archives (.pt2): a `torch.export` program, and machine code by AOTInductor."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from hrseg.errors import ConfigError
from hrseg.export.graph import capture, quiet, smallest_side
from hrseg.inference.exported.description import KEY, ExportDescription

_MODEL = "model"  # both in the archive, as torch.export.load and aoti_load_package expect


def write_torch(
    network: nn.Module, description: ExportDescription, path: Path, compiled: bool = False
) -> ExportDescription:
    """Exports a network to an archive of PyTorch.

    Args:
        network: Maps normalised images to logits; in evaluation mode.
        description: What the file is to hold.
        path: The .pt2 file.
        compiled: Whether to add machine code for CPUs like this one, which takes minutes.

    Returns:
        The description as stored.

    Raises:
        ConfigError: The network cannot be exported or compiled.
    """
    program, description = capture(network, description, with_steps=False, memory_format=torch.channels_last)
    if description.size is None:
        description = description.replaced(smallest=smallest_side(program))
    extra = {KEY: description.to_json()}
    archive = BytesIO()  # torch ends the process when it cannot write to a file
    with quiet():
        if compiled:
            _save_compiled(program, archive, extra, description.network)
        else:
            torch.export.save(program, archive, extra_files=extra)
    path.write_bytes(archive.getbuffer())
    return description


def _save_compiled(program: ExportedProgram, archive: BytesIO, extra: dict[str, str], network: str) -> None:
    from torch._inductor import aot_compile
    from torch.export.pt2_archive._package import package_pt2  # the only way to put both into one archive

    assert program.example_inputs is not None
    module = program.module()
    try:
        with torch.no_grad():
            files = aot_compile(
                module, program.example_inputs[0], options={"aot_inductor.package": True, "freezing": True}
            )
    except Exception as error:  # a compiler is missing or fails
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{network} cannot be compiled ({type(error).__name__}: {reason}); AOTInductor needs a C++ compiler such "
            "as g++, or leave out --compile"
        ) from error
    assert isinstance(files, list)
    package_pt2(archive, exported_programs={_MODEL: program}, aoti_files={_MODEL: files}, extra_files=extra)
