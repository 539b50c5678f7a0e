"""What publishing is told about one level: plain measured values, from which cards, reports and catalogue are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeprune.embedded import ArenaReport, DeviceFit, NpuReport, OperatorFigures, Quantisation
from edgeprune.results import Accuracy, CostReport, Evaluation, LatencyComparison, Verdict
from edgeprune.threshold import OperatingPoint

if TYPE_CHECKING:
    import numpy as np

Layout = Literal["NCHW float32", "NHWC float32", "NHWC int8"]


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
    """What was measured on one network in torch; the same for the pruned one and the dense one.

    Attributes:
        costs: of the network.
        val, test: of the network.
    """

    costs: CostReport
    val: Evaluation
    test: Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What was measured on one model file.

    Attributes:
        path: in the bundle (``model_int8.tflite``).
        bytes: its size.
        runtime: that executed it, with version (``tflite-micro 0.dev20261023182759``).
        accuracy: of the file, in that runtime, on the whole test split.
        layout: of its input: order of axes, and what one element is.
        float_path: the float file that an int8 one is compared with; None for float files.
        paired_p: exact McNemar test against that float file on the test split.
        input, output: how the int8 tensors stand for real numbers; None where they are float32.
        rotated: the image is fed rotated by 180 degrees.
        arena: TFLite Micro's memory; None where it was not run there.
        operators: operator name to how many of it the graph has; None where they are not counted.
        operator_figures: of each operator of an int8 file beside the float one, in graph order.
        latency: of this file against the dense one of the same path; None where it was not measured.
        calibration: how ranges were chosen, for a person to read (``percentile_90, 256 train images``).
        remedies: one sentence for each int8 remedy that was tried, with what it gave on validation.
        operating: where its two classes are cut; None where argmax decides.
    """

    path: str
    bytes: int
    runtime: str
    accuracy: Accuracy
    layout: Layout
    float_path: str | None = None
    paired_p: float | None = None
    input: Quantisation | None = None
    output: Quantisation | None = None
    rotated: bool = False
    arena: ArenaReport | None = None
    operators: Mapping[str, int] | None = None
    operator_figures: tuple[OperatorFigures, ...] = ()
    latency: LatencyComparison | None = None
    calibration: str = ""
    remedies: tuple[str, ...] = ()
    operating: OperatingPoint | None = None


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
        dynamic_batch: the ONNX files take any number of images in one call, not 1.
        pruned, dense: what was measured on this level, and on the network before pruning.
        files: every model file of the bundle; the first ONNX one, or else the first, stands for the bundle where there
            is room for one figure only (``headline``).
        dense_files: the same files of the network before pruning, as far as they were made.
        file_macs: multiply-accumulates of the file, counter fvcore, when channels were zero-padded; else None.
        paired_p: exact McNemar test of the headline file against the dense one of the same path, on the test split.
        npu: what Vela says about the int8 file; None without an Ethos-U.
        device: the profile that the export was asked to fit; None when it was asked for none.
        fits: of that device, or of every profile.
        plain_arena_head_bytes: what the head would be with PAD operators, where ``export.pad: rotate`` removed them.
        drawn: golden images are pictures drawn for it, not images of test.
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
    files: tuple[FileFacts, ...]
    dense_files: tuple[FileFacts, ...]
    file_macs: int | None
    paired_p: float
    npu: NpuReport | None = None
    device: str | None = None
    fits: tuple[DeviceFit, ...] = ()
    plain_arena_head_bytes: int | None = None
    drawn: bool = False
    verdict: Verdict

    @property
    def bundle(self) -> str:
        """The bundle's own name, which is also its folder: ``elpv96-s60``."""
        return f"{self.name}-{self.level}"

    @property
    def headline(self) -> FileFacts:
        """The file whose accuracy the catalogue shows: the first ONNX one, or else the first."""
        return next((file for file in self.files if file.path.endswith(".onnx")), self.files[0])

    @property
    def embedded(self) -> FileFacts | None:
        """The file that goes into firmware: int8, for TFLite Micro; None when the bundle has none."""
        return next((file for file in self.files if file.layout == "NHWC int8"), None)

    def dense_file(self, path: str) -> FileFacts | None:
        """The file of the same path before pruning; None when it was not made."""
        return next((file for file in self.dense_files if file.path == path), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenVectors:
    """Real inputs with the outputs that the files gave for them; what each file is fed is made by publishing.

    Attributes:
        images: uint8, shape (n, image_size, image_size, 3): resized, upright, not normalised.
        labels: true class of each image, an index into the classes.
        names: of the images in their data set.
        outputs: path in the bundle to what the file gave, shape (n, classes): float32 logits, or the stored int8
            values where the file's output is int8; from the runtime that ``FileFacts.runtime`` names.
        tolerance: path in the bundle to the largest absolute difference that still agrees: of a logit, or in steps of
            the last place (a whole number) where the output is int8.
    """

    images: "np.ndarray"
    labels: tuple[int, ...]
    names: tuple[str, ...]
    outputs: "Mapping[str, np.ndarray]"
    tolerance: Mapping[str, float]
