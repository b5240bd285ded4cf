"""Segments an image with a file of `hrseg export --to tensorrt`; needs torch, numpy, Pillow and tensorrt.

python predict_tensorrt.py model.engine street.jpg labels.png
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps


def main(model: str, source: str, target: str) -> None:
    """Writes train ids as a PNG with the classes' colours as palette, and prints the share of each class."""
    import tensorrt

    content = Path(model).read_bytes()  # 8 bytes, the length of a JSON text as 8 bytes, the text, the engine
    end = 16 + int.from_bytes(content[8:16], "little")
    classes = json.loads(content[16:end])["labels"]
    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(content[end:])
    context = engine.create_execution_context()
    image = np.array(ImageOps.exif_transpose(Image.open(source)).convert("RGB"))
    values = {"images": torch.from_numpy(image)[None].cuda()}
    context.set_input_shape("images", tuple(values["images"].shape))
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = torch.uint8 if name in ("images", "labels") else torch.float32
        values.setdefault(name, torch.empty(tuple(context.get_tensor_shape(name)), dtype=kind, device="cuda"))
        context.set_tensor_address(name, values[name].data_ptr())
    context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
    labels = values["labels"][0].cpu().numpy()  # (H, W) uint8
    picture = Image.fromarray(labels)
    picture.putpalette([value for color in classes["colors"] for value in color])
    picture.save(target)
    for train_id, pixels in zip(*np.unique(labels, return_counts=True), strict=True):
        print(f"{classes['class_names'][train_id]}: {pixels / labels.size:.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
