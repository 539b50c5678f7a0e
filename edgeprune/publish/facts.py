"""What publishing is told about one level: plain measured values, from which cards, reports and catalogue are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.results import Accuracy, CostReport, Evaluation, LatencyComparison, Verdict

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """The images a level was made with.

    Attributes:
        source: ``elpv`` or ``imagefolder``.
        digest: of every image's name, class, split and content.
        split_digest: of which image is in which split.
        split_sizes: images of ``train``, ``val`` and ``test``.
        credit: origin and licence of the images, for a person to read.
    """

    source: str
    digest: str
    split_digest: str
    split_sizes: Mapping[str, int]
    credit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelFacts:
    """What was measured on one level; the same for the pruned one and the dense one, so that they can be compared.

    Attributes:
        costs: of the network.
        val, test: of the network in torch.
        file_accuracy: of the file in its runtime, on the whole test split.
        file_bytes: path in the bundle to size, bytes.
    """

    costs: CostReport
    val: Evaluation
    test: Evaluation
    file_accuracy: Accuracy
    file_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFacts:
    """Everything a bundle says about itself.

    Attributes:
        name, level: of the recipe and the schedule; together the bundle's folder.
        version: of edgeprune.
        target, achieved: channel sparsity, in [0, 1).
        recipe_digest, goal: of the recipe.
        importance, align: how channels were ranked, and what each layer keeps a multiple of.
        data: the images.
        classes: in the order of the logits.
        image_size: height and width of the input, pixels.
        mean, std: one value a channel, in units of [0, 1] pixels.
        network, pad: as in the recipe.
        weights: what training started from, for a person to read.
        dynamic_batch: the file takes any number of images in one call, not 1.
        pruned, dense: what was measured on this level, and on the network before pruning.
        file_macs: multiply-accumulates of the file, counter fvcore, when channels were zero-padded; else None.
        paired_p: exact McNemar test of this level's file against the dense one's, on the test split.
        latency: this level's file against the dense one's.
        verdict: every gate.
    """

    name: str
    level: str
    version: str
    target: float
    achieved: float
    recipe_digest: str
    goal: str
    importance: str
    align: int
    data: DataFacts
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    network: str
    pad: str
    weights: str
    dynamic_batch: bool
    pruned: LevelFacts
    dense: LevelFacts
    file_macs: int | None
    paired_p: float
    latency: LatencyComparison
    verdict: Verdict

    @property
    def bundle(self) -> str:
        """The bundle's own name, which is also its folder: ``elpv96-s60``."""
        return f"{self.name}-{self.level}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenVectors:
    """Real inputs with the outputs that the files gave for them.

    Attributes:
        images: uint8, shape (n, image_size, image_size, 3): resized, not normalised.
        labels: true class of each image, an index into the classes.
        names: of the images in their data set.
        logits: path in the bundle to float32, shape (n, classes), from the runtime that executes the file.
        tolerance: path in the bundle to the largest absolute difference of a logit that still agrees.
    """

    images: "np.ndarray"
    labels: tuple[int, ...]
    names: tuple[str, ...]
    logits: "Mapping[str, np.ndarray]"
    tolerance: Mapping[str, float]
