"""Segments an image with a file of `hrseg export --to openvino`; needs numpy, Pillow and openvino.

python predict_openvino.py model.xml street.jpg labels.png
"""

import json
import sys

import numpy as np
from PIL import Image, ImageOps

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # OpenVINO sends statistics where it finds this package
import openvino  # noqa: E402


def main(model: str, source: str, target: str) -> None:
    """Writes train ids as a PNG with the classes' colours as palette, and prints the share of each class."""
    read = openvino.Core().read_model(model)  # its weights lie beside it, in model.bin
    about = json.loads(read.get_rt_info("hrseg").value)
    hint = {"bf16": "bf16", "fp16": "f16", "int8": "bf16"}.get(
        about["precision"], "f32"
    )  # CPUs with bf16 would else use it
    compiled = openvino.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    classes = about["labels"]
    image = np.asarray(ImageOps.exif_transpose(Image.open(source)).convert("RGB"))
    labels = compiled({"images": image[None]})["labels"][0]  # (H, W) uint8
    picture = Image.fromarray(labels)
    picture.putpalette([value for color in classes["colors"] for value in color])
    picture.save(target)
    for train_id, pixels in zip(*np.unique(labels, return_counts=True), strict=True):
        print(f"{classes['class_names'][train_id]}: {pixels / labels.size:.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
