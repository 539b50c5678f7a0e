"""The recipe as a value: its sections with every key, default, unit and limit."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgeprune.budget import Budget, read_budget
from edgeprune.calibration import METHODS
from edgeprune.errors import InputError
from edgeprune.files import digest_json
from edgeprune.preprocess import IMAGENET_MEAN, IMAGENET_STD
from edgeprune.recipe.yaml_dialect import StrictDumper

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
# A batch of one image has no variance for BatchNorm to learn from.
Batch = Annotated[int, Field(ge=2)]
Triple = tuple[float, float, float]


def _later(default: Any, *, description: str | None = None) -> Any:
    """A key that came after models were published: as long as it is off, their digests are what they were."""
    return Field(default, description=description, json_schema_extra={"later": True})


class Section(BaseModel):
    """A part of the recipe: frozen, no unknown keys, no NaN, no quiet conversion of text to numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def counted(self) -> dict[str, Any]:
        """Values as a digest counts them: without the later keys that are off."""
        later = {name: field.default for name, field in type(self).model_fields.items() if field.json_schema_extra}
        values = self.model_dump(mode="json")
        return {
            name: value for name, value in values.items() if name not in later or getattr(self, name) != later[name]
        }


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
    revision: str | None = _later(None, description="hf: branch, tag or commit")
    config: str | None = _later(None, description="hf: one of the set's configurations")
    image_column: str | None = _later(None, description="hf: which column holds the images, where several do")
    label_column: str | None = _later(None, description="hf: which column holds the labels, if not the class labels")
    classes: tuple[str, ...] | None = _later(
        None, description="hf: names of the labels 0, 1, ..., where the set names none; or the texts that it holds"
    )
    train_split: str | None = _later(None, description="hf: which split is train, where several could be")
    limit: Count | None = _later(None, description="hf: take the first images only, so many of each split")

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
    crop_area: Annotated[float, Field(gt=0, le=1)] = _later(
        1.0, description="keep a random part of the image, of at least this share of its area, and stretch it back"
    )
    rotate_degrees: Annotated[float, Field(ge=0, le=45)] = _later(
        0.0, description="rotate by a random angle up to this, edges mirrored"
    )
    saturation: Share = _later(0.0, description="move colours from grey by a factor in [1 - s, 1 + s]")

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
    alpha: Share = _later(
        0.0,
        description="weight of the teacher that the section `teacher` names; labels weigh the rest, images without "
        "a label learn from the teacher alone",
    )
    temperature: Positive = _later(1.0, description="softens the teacher's answers")
    ema: Annotated[float, Field(ge=0, lt=1)] = _later(
        0.0, description="decay a step of averaged weights, which are then judged and kept, like 0.999"
    )
    mixup: NotNegative = _later(0.0, description="mix images in a proportion from Beta(mixup, mixup), like 0.2")
    paste: Share = _later(0.0, description="share of the images that another one, shrunk, is pasted onto")
    labelled_share: Annotated[float, Field(ge=0, lt=1)] = _later(
        0.0, description="repeat labelled images until they are this share of an epoch, all classes equally often"
    )


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


# Text with a unit, or a whole number of what has none.
Amount = str | int | None
Importance = Literal["l1_norm", "l2_norm", "bn_gamma", "fpgm", "taylor", "activation", "lamp", "random"]


class PruneSection(Section):
    """Which channels go, how many at each step, and when to stop."""

    targets: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    schedule: Literal["explicit", "linear", "geometric", "one_shot"] = Field(
        "explicit",
        description="how the last target is reached: by those before it, in equal steps, in steps that each take the "
        "same share of what is left, or at once",
    )
    steps: Count = Field(8, description="how many, for a linear or geometric schedule")
    compact: bool = Field(
        False, description="first remove what is dead, in a level of its own that answers as the baseline does"
    )
    max_step_drop: Share | None = Field(
        None, description="a step that loses more validation accuracy than this is halved and made again"
    )
    scope: Literal["expand", "all"] = Field("expand", description="inner channels of blocks, or every shared channel")
    protect: tuple[str, ...] = Field((), description="names of modules whose channels are left alone")
    importance: Importance = Field("taylor", description="what is read off a channel; see `score_channels`")
    coupled: Literal["producer", "all"] = Field(
        "all", description="ask the layer that makes a channel, or every layer that shares it"
    )
    normalise: Literal["none", "layer", "isomorphic"] = Field(
        "none", description="what makes layers comparable: nothing, each layer's mean, or ranks among layers of a kind"
    )
    importance_images: Annotated[int, Field(ge=2)] = Field(
        512, description="train images that taylor and activation look at, drawn with the recipe's seed"
    )
    align: Literal[1, 2, 4, 8, 16, 32] = Field(8, description="kept channels per layer are a multiple of this")
    min_accuracy: Share | None = Field(None, description="stop below this validation accuracy")
    max_drop: Share | None = Field(None, description="stop this far below the baseline's validation accuracy")

    @model_validator(mode="after")
    def _check(self) -> Self:
        # Closer together than this, two levels would share a name, and the second one overwrite the first.
        if any(later - earlier < 1e-7 for earlier, later in zip(self.targets, self.targets[1:], strict=False)):
            raise ValueError("targets must rise from step to step: each one is cumulative")
        return self


class BudgetSection(Section):
    """Upper bounds that a level must meet, as BUDGET names them, with their units; what is left out is not bounded."""

    flash: Amount = Field(None, description="bytes of the int8 TFLite file, like 300KB")
    ram: Amount = Field(None, description="head of TFLite Micro's arena: activations, like 64KiB")
    arena: Amount = Field(None, description="all of that arena: head, tail and the scratch of CMSIS-NN's kernels")
    macs: Amount = Field(None, description="multiply-accumulates of one image, like 4M")
    params: Amount = Field(None, description="weights and biases, like 400k")
    latency: Amount = Field(
        None, description="of model.onnx on this machine, like 0.4ms: see `edgeprune devices measure`"
    )

    @property
    def bounds(self) -> Budget | None:
        """The bounds as numbers; None without any."""
        amounts = {name: str(value) for name, value in self.model_dump().items() if value is not None}
        return read_budget(amounts) if amounts else None

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            _ = self.bounds
        except InputError as error:
            raise ValueError(error.problem.rstrip(".")) from None
        return self


class ActivationsSection(Section):
    """Cheaper activations where images are still large and a hard-swish decides how much RAM is needed."""

    early: Literal["keep", "relu"] = Field(
        "keep", description="relu: hard-swish and SiLU of the first blocks become ReLU; recovery makes up for it"
    )
    blocks: Count = Field(1, description="how many blocks, counted from the input; 1 is the stem")


class RecalibrateSection(Section):
    """Re-estimation of BatchNorm statistics before every evaluation that counts."""

    split: Literal["train", "val"] = "train"
    images: Annotated[int, Field(ge=2)] = Field(
        2048, description="at most this many images, drawn with the recipe's seed"
    )


class RecoverSection(Section):
    """Fine-tuning with distillation after every step: ``alpha`` weighs the teacher, ``1 - alpha`` the labels.

    What stands below ``weight_decay`` is off unless the recipe asks for it.
    """

    teacher: str = Field(
        "baseline",
        description="baseline, previous (the level before, as an assistant), file (of the section `teacher`), or the "
        "folder of any checkpoint of ours",
    )
    alpha: Share = 0.5
    temperature: Positive = 4.0
    epochs: Count = 10
    patience: Count = Field(
        4,
        description="stop after this many epochs without a better validation accuracy, before lr_schedule has reached "
        "its end too; as many as epochs never stop",
    )
    lr: Positive = 1e-4
    lr_high: Positive = Field(5e-5, description="learning rate from lr_high_threshold upwards")
    lr_high_threshold: Fraction = 0.25
    batch_size: Batch = 64
    weight_decay: NotNegative = 0.0
    lr_schedule: Literal["constant", "cosine", "one_cycle"] = Field(
        "constant", description="cosine falls to zero, one_cycle rises first; lr and lr_high are the highest rate"
    )
    warmup_epochs: NotNegative = Field(0.0, description="epochs of rise; one_cycle takes 30 % of all when this is 0")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay a step of averaged weights, which are then judged and kept, like 0.99"
    )
    mixup: NotNegative = Field(0.0, description="mix images in a proportion from Beta(mixup, mixup), like 0.2")
    paste: Share = _later(0.0, description="share of the images that another one, shrunk, is pasted onto")
    labelled_share: Annotated[float, Field(ge=0, lt=1)] = _later(
        0.0, description="repeat labelled images until they are this share of an epoch, all classes equally often"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    feature_weight: NotNegative = Field(
        0.0, description="weight of attention transfer: blocks shall look where the teacher's look"
    )
    feature_blocks: tuple[str, ...] = Field((), description="names of modules for that; all blocks when empty")
    cache_teacher: bool = Field(
        False, description="ask the teacher once for each image and orientation; only with flips and quarter turns"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.cache_teacher and (self.mixup or self.paste or self.feature_weight):
            raise ValueError(
                "cache_teacher keeps logits of images that come again: it needs mixup 0, paste 0 and feature_weight 0"
            )
        if self.feature_blocks and not self.feature_weight:
            raise ValueError("feature_blocks are named, but feature_weight is 0")
        if self.feature_weight and self.teacher == "file":
            raise ValueError("feature_weight compares blocks, and a teacher of teacher: file shows none")
        return self


Format = Literal["onnx", "onnx_int8", "tflite", "tflite_int8", "c", "executorch"]
# What a format is made from or held against.
_NEEDS: dict[str, str] = {"onnx_int8": "onnx", "c": "tflite_int8"}


class QuantiseSection(Section):
    """How int8 files are made; everything is chosen on validation images and calibrated on train images."""

    images: Annotated[int, Field(ge=8)] = Field(256, description="train images that ranges are taken from")
    calibration: Literal["auto", *METHODS] = Field(  # type: ignore[valid-type]
        "auto", description="how ranges are chosen; auto compares all ways on validation and keeps the best"
    )
    equalise: bool = Field(True, description="even out ranges between layers where the activation allows it")
    split_peak: bool = Field(
        True, description="compute the hard-swish that decides memory in parts: less RAM, finer steps, the same answers"
    )
    qat: Literal["auto", "always", "never"] = Field(
        "auto", description="quantisation-aware recovery; auto: when int8 falls short of max_drop on validation"
    )
    max_drop: Share = Field(
        0.005,
        description="what int8 may lose before qat: auto switches on; it may decide otherwise on twice that share",
    )
    epochs: Count = 10
    lr: Positive = 1e-4
    batch_size: Batch = Field(16, description="small ones give more steps an epoch, which recovery is short of")


class ExportSection(Section):
    """Which files a level becomes."""

    formats: Annotated[tuple[Format, ...], Field(min_length=1)] = ("onnx", "onnx_int8", "tflite", "tflite_int8", "c")
    device: str | None = Field(
        None, description="a profile of `edgeprune devices`, or a file like those; what does not fit it fails"
    )
    dynamic_batch: bool = Field(False, description="batch dimension `batch` instead of 1, in the ONNX file")
    pad: Literal["keep", "rotate"] = Field(
        "keep", description="rotate: no PAD operator in TFLite without training; images are fed rotated by 180 degrees"
    )
    golden: Literal["images", "drawn"] = _later(
        "images", description="golden inputs: test images, or pictures drawn for it, so that no photograph is passed on"
    )
    threshold: Literal["none", "balanced_accuracy", "accuracy"] = _later(
        "none", description="of two classes: cut each file's answers where this is largest on validation images"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.formats)) < len(self.formats):
            raise ValueError("a format stands twice")
        for wanted, needed in _NEEDS.items():
            if wanted in self.formats and needed not in self.formats:
                raise ValueError(f"{wanted} is made from {needed} or held against it: list both")
        if self.device is not None and "tflite_int8" not in self.formats:
            raise ValueError(f"device {self.device} is asked whether tflite_int8 fits it: list that in formats")
        if "onnx" not in self.formats:
            raise ValueError("onnx must be one of them: the card and the latency gate rest on it")
        return self


class VerifySection(Section):
    """Limits of the gates. There is no switch that turns a gate off."""

    max_accuracy_drop: Share = Field(0.03, description="the file's test accuracy against the unpruned baseline's file")
    min_agreement: Share = Field(0.998, description="argmax agreement of the file with torch")
    max_logit_difference: Positive = Field(1e-3, description="largest difference over the largest logit")
    max_int8_drop: Share = Field(0.01, description="test accuracy of an int8 file against its own float file")
    min_int8_agreement: Share = Field(0.9, description="argmax agreement of an int8 file with its own float file")
    min_int8_sqnr_db: Positive = Field(3.0, description="signal to quantisation noise of an int8 file's logits")


class Recipe(Section):
    """Everything a run does. See the sections for units and defaults."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
    goal: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataSection = DataSection()
    augment: AugmentSection = AugmentSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    teacher: TeacherSection = TeacherSection()
    prune: PruneSection = PruneSection()
    budget: BudgetSection = BudgetSection()
    activations: ActivationsSection = ActivationsSection()
    recalibrate: RecalibrateSection = RecalibrateSection()
    recover: RecoverSection = RecoverSection()
    quantise: QuantiseSection = QuantiseSection()
    export: ExportSection = ExportSection()
    verify: VerifySection = VerifySection()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.recover.cache_teacher and not self.augment.only_orients:
            raise ValueError("recover.cache_teacher needs an augmentation that only flips and turns")
        for wants, key in ((self.train.alpha, "train.alpha"), (self.recover.teacher == "file", "recover.teacher")):
            if wants and self.teacher.path is None:
                raise ValueError(f"{key} asks for the teacher's file, and teacher.path names none")
        if re.search(r"-(s\d\d\w*|b-[0-9a-f]{8}[\w-]*|dense|compact|sensitivity|latency)$", self.name):
            raise ValueError(f"name {self.name!r} ends like a level (-s60, -dense), whose folder it would share")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe as values: comments, key order and folders of this machine do not count."""
        values = self.without_local_paths()
        parts = {name: getattr(values, name) for name in type(self).model_fields}
        off = {"teacher": TeacherSection()}  # a later section, as the later keys are
        return digest_json(
            {
                name: part.counted() if isinstance(part, Section) else part
                for name, part in parts.items()
                if part != off.get(name)
            }
        )

    def part_digest(self, *sections: str) -> str:
        """SHA-256 of the seed and the named sections: what a step that reads only these depends on."""
        return digest_json({"seed": self.seed} | {name: getattr(self, name).counted() for name in sections})

    def without_local_paths(self) -> Self:
        """The recipe as strangers get it: where images and weights lay on this machine is nobody's business."""
        data = self.data.model_copy(update={"path": None})
        model = self.model.model_copy(update={"weights": Path(self.model.weights).name, "baseline": None})
        recover = self.recover.model_copy(update={"teacher": Path(self.recover.teacher).name})
        path = self.teacher.path
        teacher = self.teacher.model_copy(update={"path": Path(path).name if path else None})
        device = Path(self.export.device).stem if self.export.device else None
        export = self.export.model_copy(update={"device": device})
        return self.model_copy(
            update={"data": data, "model": model, "teacher": teacher, "recover": recover, "export": export}
        )

    def to_yaml(self) -> str:
        """The recipe with every default written out, as it is saved beside what it made."""
        return yaml.dump(self.model_dump(mode="json"), Dumper=StrictDumper, sort_keys=False, allow_unicode=True)
