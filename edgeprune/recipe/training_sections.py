"""What the unpruned network is made of: images, their augmentation, the network, training, a teacher."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from edgeprune.preprocess import IMAGENET_MEAN, IMAGENET_STD
from edgeprune.recipe.section import Batch, Count, Fraction, NotNegative, Positive, Section, Share, Triple, later


class DataSection(Section):
    """Where images come from and how they are split; ``mean`` and ``std`` are in units of [0, 1] pixels."""

    source: Literal["elpv", "imagefolder", "csv", "hf", "vww"] = Field(
        "elpv",
        description="elpv (solar cells, by pip), imagefolder, csv (a list), hf (Hugging Face hub, or a folder of "
        "Parquet files), or vww (person or not, from COCO)",
    )
    path: str | None = Field(
        None, description="the image folder, the list, the set's id on the hub, or COCO's folder; DATA= sets it"
    )
    image_size: Annotated[int, Field(ge=16, le=1024)] = Field(96, description="height and width in pixels")
    val_fraction: Fraction = 0.15
    test_fraction: Fraction = 0.20
    split_seed: Annotated[int, Field(ge=0)] = 0
    skip_broken: bool = Field(False, description="leave out unreadable files instead of stopping")
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    revision: str | None = later(None, description="hf: branch, tag or commit")
    config: str | None = later(None, description="hf: one of the set's configurations")
    image_column: str | None = later(None, description="hf: which column holds the images, where several do")
    label_column: str | None = later(None, description="hf: which column holds the labels, if not the class labels")
    classes: tuple[str, ...] | None = later(
        None, description="hf: names of the labels 0, 1, ..., where the set names none; or the texts that it holds"
    )
    train_split: str | None = later(None, description="hf: which split is train, where several could be")
    limit: Count | None = later(None, description="hf: take the first images only, so many of each split")

    @model_validator(mode="after")
    def _check(self) -> Self:
        keys = ("revision", "config", "image_column", "label_column", "classes", "train_split", "limit")
        alien = [key for key in keys if getattr(self, key) is not None]
        if alien and self.source != "hf":
            raise ValueError(f"{alien[0]} is a key of source hf, and source is {self.source}")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction and test_fraction together must leave images to train on (sum < 1)")
        if min(self.std) <= 0:
            raise ValueError("std must be positive for every channel")
        return self


class AugmentSection(Section):
    """Random changes to training batches; the defaults change nothing."""

    flip_horizontal: bool = False
    flip_vertical: bool = False
    quarter_turns: bool = Field(False, description="rotate by a random multiple of 90 degrees")
    shift_pixels: Annotated[int, Field(ge=0, le=64)] = Field(0, description="random translation, edges replicated")
    brightness: Share = Field(0.0, description="multiply pixels by a factor in [1 - b, 1 + b]")
    contrast: Share = Field(0.0, description="stretch around the image's mean by a factor in [1 - c, 1 + c]")
    crop_area: Annotated[float, Field(gt=0, le=1)] = later(
        1.0, description="keep a random part of the image, of at least this share of its area, and stretch it back"
    )
    rotate_degrees: Annotated[float, Field(ge=0, le=45)] = later(
        0.0, description="rotate by a random angle up to this, edges mirrored"
    )
    saturation: Share = later(0.0, description="move colours from grey by a factor in [1 - s, 1 + s]")

    @property
    def only_orients(self) -> bool:
        """Whether an image comes in at most eight forms: flipped and turned by quarters, nothing else."""
        orienting = {"flip_horizontal", "flip_vertical", "quarter_turns"}
        return self == AugmentSection(**{name: getattr(self, name) for name in orienting})


class ModelSection(Section):
    """The network, and the weights that training starts from."""

    network: str = Field(
        "mobilenet_v3_small", description="a torchvision classifier, timm/NAME, or package.module:function"
    )
    weights: str = Field(
        "IMAGENET1K_V1", description="none, torchvision's or timm's name, a .safetensors file, or a folder of ours"
    )
    pad: Literal["torch", "same"] = Field("torch", description="padding of stride-2 convolutions")
    baseline: str | None = Field(None, description="folder of the unpruned checkpoint; models/<name> by default")


class TrainSection(Section):
    """Training of the baseline: AdamW, linear warm-up, cosine decay, best epoch by validation accuracy."""

    epochs: Count = 40
    batch_size: Batch = 64
    lr: Positive = 1e-3
    weight_decay: NotNegative = 0.02
    warmup_epochs: NotNegative = 2.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: bool = Field(False, description="weigh classes by the inverse of their frequency")
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="torchvision's 0.01 lags so far behind in short training that evaluation sits at chance"
    )
    alpha: Share = later(
        0.0,
        description="weight of the teacher that the section `teacher` names; labels weigh the rest, images without "
        "a label learn from the teacher alone",
    )
    temperature: Positive = later(1.0, description="softens the teacher's answers")
    ema: Annotated[float, Field(ge=0, lt=1)] = later(
        0.0, description="decay a step of averaged weights, which are then judged and kept, like 0.999"
    )
    mixup: NotNegative = later(0.0, description="mix images in a proportion from Beta(mixup, mixup), like 0.2")
    paste: Share = later(0.0, description="share of the images that another one, shrunk, is pasted onto")
    labelled_share: Annotated[float, Field(ge=0, lt=1)] = later(
        0.0, description="repeat labelled images until they are this share of an epoch, all classes equally often"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.class_weights and self.alpha:
            raise ValueError("class_weights weigh labels alone, and alpha asks for a teacher beside them")
        if self.class_weights and self.labelled_share:
            raise ValueError("class_weights count what labelled_share has made equally often already")
        return self


class TeacherSection(Section):
    """A stronger network in a TFLite or ONNX file, for training and recovery to learn from; a path alone will do.

    It is shown the augmented images, resized to the size it wants. ``mean`` and ``std`` are in units of [0, 1] pixels.
    """

    path: str | None = Field(None, description="a .tflite or .onnx file of one image input and one output of classes")
    mean: Triple = Field((0.5, 0.5, 0.5), description="the default gives it pixels in [-1, 1]")
    std: Triple = (0.5, 0.5, 0.5)
    classes: tuple[str, ...] = Field((), description="class names in the order of its outputs; the data's when empty")

    @model_validator(mode="before")
    @classmethod
    def _accept_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.path is not None and Path(self.path).suffix not in {".tflite", ".onnx"}:
            raise ValueError(f"a teacher is a .tflite or .onnx file, not {Path(self.path).name}")
        if min(self.std) <= 0:
            raise ValueError("std must be positive for every channel")
        return self
