"""Scores of the boundaries, to which the mean IoU is hardly sensitive: Boundary IoU and trimap accuracy."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from hrseg.errors import ConfigError
from hrseg.metrics.confusion import accuracy_per_class, count_pairs, mean_of


class BoundaryScores(Metric):
    """Boundary IoU, and mean accuracy in a trimap: a narrow band around the borders of the labels.

    Computed image by image on the CPU, with OpenCV's erosion, whose time does not depend on the distance.

    Args:
        num_classes: Number of classes, K.
        ignore_index: Value of the pixels in the target that do not count; their edge is not a border.
        boundary_share: Width of the boundary region inside a mask, as a fraction of the image's diagonal.
        trimap_width: Largest distance in pixels of the trimap's pixels from a border of the labels.

    Raises:
        ConfigError: A distance is not positive.

    Source:
        Cheng et al., "Boundary IoU" (CVPR 2021): masks are eroded by squares, and the image's border is a border.
        Kohli et al., "Robust Higher Order Potentials" (IJCV 2009), section 5: trimaps.
    """

    full_state_update = False

    intersection: Tensor  # (K,) int64, of the boundary regions
    union: Tensor
    trimap: Tensor  # (K, K + 1) int64, a confusion matrix

    def __init__(
        self, num_classes: int, ignore_index: int = 255, boundary_share: float = 0.02, trimap_width: int = 5
    ) -> None:
        super().__init__()
        if boundary_share <= 0 or trimap_width < 1:
            raise ConfigError(
                f"boundary_share {boundary_share}, trimap_width {trimap_width}; expected more than 0, and 1 or more"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.boundary_share = boundary_share
        self.trimap_width = trimap_width
        self.add_state("intersection", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("union", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        matrix = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)
        self.add_state("trimap", matrix, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Counts one image.

        Args:
            preds: (H, W) uint8, predicted classes.
            target: (H, W) uint8, train ids and the ignore index.
        """
        truth = target.cpu().numpy()
        # ignored pixels are ignored in both, so that their edge is the same in both
        prediction = np.where(truth == self.ignore_index, self.ignore_index, preds.cpu().numpy()).astype(np.uint8)
        distance = max(1, round(self.boundary_share * float(np.hypot(*truth.shape))))
        counts = torch.zeros(2, self.num_classes, dtype=torch.int64)
        for train_id in np.unique([truth, prediction]).tolist():
            if train_id < self.num_classes:
                theirs, ours = (boundary_region(map_ == train_id, distance) for map_ in (truth, prediction))
                counts[0, train_id] = int((theirs & ours).sum())
                counts[1, train_id] = int((theirs | ours).sum())
        band = border_band(truth, self.ignore_index, self.trimap_width)
        seen, known = torch.from_numpy(prediction[band]), torch.from_numpy(truth[band])
        matrix, _ = count_pairs(seen, known, self.num_classes, self.ignore_index)
        # not in place: the states may be inference tensors
        self.intersection = self.intersection + counts[0].to(self.device)
        self.union = self.union + counts[1].to(self.device)
        self.trimap = self.trimap + matrix.to(self.device)

    def compute(self) -> dict[str, Tensor]:
        """Computes the scores of all images, float64, 0 to 1; NaN for a class that never occurred.

        Returns:
            "boundary_miou" and "trimap_accuracy", the means over the classes that occurred, and the vectors (K,)
            "boundary_iou" and "trimap_accuracy_per_class".
        """
        boundary_iou = self.intersection.cpu().double() / self.union.cpu()
        accuracy = accuracy_per_class(self.trimap.cpu())
        return {
            "boundary_miou": mean_of(boundary_iou, "skip"),
            "trimap_accuracy": mean_of(accuracy, "skip"),
            "boundary_iou": boundary_iou,
            "trimap_accuracy_per_class": accuracy,
        }


def boundary_region(mask: np.ndarray, distance: int) -> np.ndarray:
    """The pixels of a mask within a distance of its border, which includes the image's border.

    Args:
        mask: (H, W) bool.
        distance: In pixels, in steps to any of the eight neighbours.

    Returns:
        (H, W) bool.

    >>> boundary_region(np.ones((3, 5), bool), 1).astype(int)
    array([[1, 1, 1, 1, 1],
           [1, 0, 0, 0, 1],
           [1, 1, 1, 1, 1]])
    """
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    inside = cv2.erode(mask.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    region: np.ndarray = mask & (inside == 0)
    return region


def border_band(target: np.ndarray, ignore_index: int, width: int) -> np.ndarray:
    """The pixels within a distance of a border between two classes; the ignore index is no class.

    Args:
        target: (H, W) uint8 train ids and the ignore index.
        ignore_index: Value of the pixels that do not count.
        width: Distance in pixels, in steps to any of the eight neighbours; 1 is just the pixels on both sides.

    Returns:
        (H, W) bool.
    """
    known = target != ignore_index
    edge = np.zeros(target.shape, bool)
    for axis in (0, 1):
        first, second = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        differs = (target[first] != target[second]) & known[first] & known[second]
        edge[first] |= differs
        edge[second] |= differs
    square = np.ones((2 * width - 1, 2 * width - 1), np.uint8)
    band: np.ndarray = cv2.dilate(edge.astype(np.uint8), square).astype(bool) & known
    return band
