"""What stages measure: frozen values of plain numbers. Ratios are properties, so they cannot disagree with them."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A share of images classified correctly.

    Attributes:
        correct, n: images.
    """

    correct: int
    n: int

    @property
    def value(self) -> float:
        """Accuracy in [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson score interval, 95 % (Wilson 1927; Brown, Cai, DasGupta 2001 recommend it for any n).

        >>> [round(bound, 3) for bound in Accuracy(correct=437, n=526).interval]
        [0.796, 0.86]
        """
        z = 1.959963984540054
        centre = (self.correct + z * z / 2) / (self.n + z * z)
        half = z / (self.n + z * z) * math.sqrt(self.correct * (self.n - self.correct) / self.n + z * z / 4)
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.4f} (n={self.n}, 95 % {low:.4f} to {high:.4f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How a network did on one split.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        accuracy: see ``Accuracy``.
        loss: mean cross entropy, in nats.
        confusion: images, rows are true classes, columns predicted ones.
        roc_auc: area under the ROC curve; several classes: one against the rest, macro mean.
        seconds: wall time of the forward passes.
    """

    split: str
    accuracy: Accuracy
    loss: float
    confusion: tuple[tuple[int, ...], ...]
    roc_auc: float
    seconds: float

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes (macro recall)."""
        recalls = [row[index] / sum(row) for index, row in enumerate(self.confusion) if sum(row)]
        return sum(recalls) / len(recalls)

    @property
    def macro_f1(self) -> float:
        """F1 score, averaged over the classes without weights."""
        scores = []
        for index, row in enumerate(self.confusion):
            predicted = sum(other[index] for other in self.confusion)
            total = sum(row) + predicted
            scores.append(2 * row[index] / total if total else 0.0)
        return sum(scores) / len(scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """Channels of one group: the layer that makes them, and which of them stay.

    Attributes:
        layer: module name of the producing convolution; it names the group.
        channels: before this step.
        kept: indices of the channels that stay, rising.
    """

    layer: str
    channels: int
    kept: tuple[int, ...]

    @property
    def removed(self) -> int:
        """Channels that go."""
        return self.channels - len(self.kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPlan:
    """What one step of the schedule removes.

    Attributes:
        target: channel sparsity asked for, in (0, 1), cumulative.
        prunable: channels of the unpruned network, summed over all groups.
        groups: one entry a group, in network order.
        importance: the criterion that ranked the channels.
        align: kept channels per group are a multiple of this.
    """

    target: float
    prunable: int
    groups: tuple[GroupPlan, ...]
    importance: str
    align: int

    @property
    def removed_now(self) -> int:
        """Channels this step removes."""
        return sum(group.removed for group in self.groups)

    @property
    def removed_before(self) -> int:
        """Channels that earlier steps removed."""
        return self.prunable - sum(group.channels for group in self.groups)

    @property
    def achieved(self) -> float:
        """Channel sparsity after this step, in [0, 1)."""
        return (self.removed_before + self.removed_now) / self.prunable


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCost:
    """Cost of one part of a network.

    Attributes:
        name: module name; ``block`` groups by the first two parts of it.
        macs: multiply-accumulates of one image, counter fvcore.
        params: weights and biases.
    """

    name: str
    macs: int
    params: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """What a network costs for one image.

    Attributes:
        params: weights and biases, BatchNorm's included.
        macs_by_operator: counter fvcore, operator name to multiply-accumulates.
        macs_thop: the same network by the formula of thop (the seed log's figure).
        blocks: cost per block, in network order.
        peak_activation_bytes: largest sum of live float32 activations, by liveness.
        peak_activation_at: module or operator at the peak.
        checkpoint_bytes: size of the safetensors file; 0 when it was not saved yet.
    """

    params: int
    macs_by_operator: dict[str, int]
    macs_thop: int
    blocks: tuple[BlockCost, ...]
    peak_activation_bytes: int
    peak_activation_at: str
    checkpoint_bytes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, counter fvcore."""
        return sum(self.macs_by_operator.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A check with a figure, a limit and a verdict.

    Attributes:
        name: short, stable, snake_case.
        figure: what was measured.
        limit: what it is held against, with its direction, for a person to read (``<= 0.03``).
        passed: the verdict; computed where the figure is, so that NaN never passes.
        detail: where to look, or what was compared.
    """

    name: str
    figure: float | int | str
    limit: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All gates of one level. Nothing is published unless every one passed."""

    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """True when there are gates and every one passed."""
        return bool(self.gates) and all(gate.passed for gate in self.gates)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyComparison:
    """Latency of one file against another, measured in turns on one machine.

    Attributes:
        runtime: name and version.
        threads: intra-operator threads.
        cpu: processor name.
        protocol: how it was measured, in one sentence.
        median_ms, reference_median_ms: medians of one call, milliseconds.
        ratio_low, ratio, ratio_high: median over reference median with its 95 % bootstrap interval.
    """

    runtime: str
    threads: int
    cpu: str
    protocol: str
    median_ms: float
    reference_median_ms: float
    ratio_low: float
    ratio: float
    ratio_high: float


def at_most(name: str, figure: float, limit: float, detail: str = "") -> Gate:
    """A gate that passes when the figure is at most the limit; NaN and infinity fail.

    >>> at_most("drop", float("nan"), 0.03).passed
    False
    """
    # JSON has no NaN: the figure of a failed gate may be one, and is then stored as text.
    shown = figure if math.isfinite(figure) else str(figure)
    return Gate(name=name, figure=shown, limit=f"<= {limit:g}", passed=bool(figure <= limit), detail=detail)


def at_least(name: str, figure: float, limit: float, detail: str = "") -> Gate:
    """A gate that passes when the figure is at least the limit; NaN fails."""
    shown = figure if math.isfinite(figure) else str(figure)
    return Gate(name=name, figure=shown, limit=f">= {limit:g}", passed=bool(figure >= limit), detail=detail)


def as_json(value: Any) -> Any:
    """A result as plain JSON values; properties are left out, because they can be derived."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    return str(value) if isinstance(value, PurePath) else value
