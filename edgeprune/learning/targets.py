"""What a training split says of its images: shares of classes, weights, none at all; and how often each is drawn."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.data import PackedSplit


def is_plainly_labelled(split: PackedSplit) -> bool:
    """Whether every image has one class and counts as much as any other."""
    return split.weights is None and split.soft is None and bool((split.labels >= 0).all())


def label_shares(split: PackedSplit, classes: int) -> Tensor:
    """Shares of the classes times the weight of each label; rows of images without any label are zero.

    A soft label that stands alone weighs 1: the weights are of the labels.

    Args:
        split: n images.
        classes: how many there are.

    Returns:
        float32, shape (n, classes).
    """
    labels = torch.from_numpy(np.array(split.labels))
    shares = functional.one_hot(labels.clamp(min=0), classes).float() * (labels >= 0).unsqueeze(1)
    if split.soft is not None:
        soft = torch.from_numpy(np.array(split.soft, dtype=np.float32))
        shares = torch.where(soft.isnan(), shares, soft)
    if split.weights is not None:
        weights = torch.from_numpy(np.array(split.weights, dtype=np.float32)).unsqueeze(1)
        shares = torch.where((labels >= 0).unsqueeze(1), shares * weights, shares)
    return shares


def rows_of_epoch(labels: np.ndarray, labelled_share: float) -> np.ndarray:
    """Positions that an epoch goes through: all images, labelled ones more than once.

    Args:
        labels: class indices, shape (n,); -1 says that there is none.
        labelled_share: that labelled images shall at least make up, in [0, 1); every class as often as any other. 0
            takes each image once.

    Returns:
        int64 positions, at least n, sorted.

    >>> rows_of_epoch(np.array([0, 0, 1, -1, -1, -1, -1]), 0.5).tolist()
    [0, 1, 2, 2, 3, 4, 5, 6]
    """
    everything = np.arange(len(labels))
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if not labelled_share or not len(classes):
        return everything
    unlabelled = int((labels < 0).sum())
    wanted = max(round(unlabelled * labelled_share / (1 - labelled_share) / len(classes)), int(counts.max()))
    # Evenly through the class, so that a part of it that is drawn once more is as mixed as the class.
    repeated = [
        members[np.arange(wanted) * len(members) // wanted]
        for members in (np.flatnonzero(labels == index) for index in classes)
    ]
    return np.sort(np.concatenate([np.flatnonzero(labels < 0), *repeated]))
