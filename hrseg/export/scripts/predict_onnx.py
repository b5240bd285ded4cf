"""Segments an image with a file of `hrseg export --to onnx`; needs numpy, Pillow and onnxruntime.

python predict_onnx.py model.onnx street.jpg labels.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(model: str, source: str, target: str) -> None:
    """Writes train ids as a PNG with the classes' colours as palette, and prints the share of each class."""
    session = onnxruntime.InferenceSession(model, providers=onnxruntime.get_available_providers())
    classes = json.loads(session.get_modelmeta().custom_metadata_map["hrseg"])["labels"]
    image = np.asarray(ImageOps.exif_transpose(Image.open(source)).convert("RGB"))
    labels = session.run(["labels"], {"images": image[None]})[0][0]  # (H, W) uint8
    picture = Image.fromarray(labels)
    picture.putpalette([value for color in classes["colors"] for value in color])
    picture.save(target)
    for train_id, pixels in zip(*np.unique(labels, return_counts=True), strict=True):
        print(f"{classes['class_names'][train_id]}: {pixels / labels.size:.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
