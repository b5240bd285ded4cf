"""Segments an image with a file of `hrseg export --to torch`; needs torch, numpy and Pillow.

python predict_torch.py model.pt2 street.jpg labels.png
"""

import json
import sys
import zipfile

import numpy as np
import torch
from PIL import Image, ImageOps


def main(model: str, source: str, target: str) -> None:
    """Writes train ids as a PNG with the classes' colours as palette, and prints the share of each class."""
    with zipfile.ZipFile(model) as archive:
        names = archive.namelist()
        about = json.loads(archive.read(next(name for name in names if name.endswith("extra/hrseg"))))
    is_compiled = any("/data/aotinductor/" in name for name in names)
    run = torch._inductor.aoti_load_package(model) if is_compiled else torch.export.load(model).module()
    classes = about["labels"]
    image = np.array(ImageOps.exif_transpose(Image.open(source)).convert("RGB"))
    with torch.no_grad():
        labels = run(torch.from_numpy(image)[None])["labels"][0].numpy()  # (H, W) uint8
    picture = Image.fromarray(labels)
    picture.putpalette([value for color in classes["colors"] for value in color])
    picture.save(target)
    for train_id, pixels in zip(*np.unique(labels, return_counts=True), strict=True):
        print(f"{classes['class_names'][train_id]}: {pixels / labels.size:.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
