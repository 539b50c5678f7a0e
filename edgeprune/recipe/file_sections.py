"""What a level becomes: int8, files, and the limits that they are held to."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgeprune.calibration import METHODS
from edgeprune.recipe.section import Batch, Count, Positive, Section, Share, later

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
    golden: Literal["images", "drawn"] = later(
        "images", description="golden inputs: test images, or pictures drawn for it, so that no photograph is passed on"
    )
    threshold: Literal["none", "balanced_accuracy", "accuracy"] = later(
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
