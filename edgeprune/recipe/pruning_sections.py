"""How channels go and what makes up for it: pruning, budgets, activations, recalibration, recovery."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgeprune.budget import Budget, read_budget
from edgeprune.errors import InputError
from edgeprune.recipe.section import Batch, Count, Fraction, NotNegative, Positive, Section, Share, later

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
    budget_steps: Count = later(
        1, description="cut to a budget in so many levels, by the same factor each, instead of at once"
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
    paste: Share = later(0.0, description="share of the images that another one, shrunk, is pasted onto")
    labelled_share: Annotated[float, Field(ge=0, lt=1)] = later(
        0.0, description="repeat labelled images until they are this share of an epoch, all classes equally often"
    )
    budget_epochs: Count | None = later(
        None, description="epochs after the cut to a budget, which is often deeper than a step; unset: epochs"
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
