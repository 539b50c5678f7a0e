"""The operators of the int8 file that a network becomes, with the tensors they read and write.

By the rules by which LiteRT converts and TFLite Micro lays out: BatchNorm and ReLU vanish into the layer before them, a
hard-swish or a gate does not; padding that TensorFlow does not know is an operator of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeprune.plan.operators import Operator
from edgeprune.plan.windows import Window

# The same memory, or nothing at all in evaluation mode. Channels come last in TFLite: permutations to that vanish.
_VIEWS = frozenset(
    {
        "dropout", "feature_dropout", "flatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose",
        "contiguous", "detach", "alias", "identity", "getitem", "to", "clone", "expand",
    }
)  # fmt: skip
_CLIPS = frozenset({"relu", "relu6", "hardtanh"})
_LAYERS = frozenset({"conv2d", "linear"})
# They clip their result as they write it.
_CLIPPING = _LAYERS | {"depthwise", "add", "sub", "mul", "div", "affine"}


# What torch computes at once and a file in steps ends in these. A hard-sigmoid adds 3, in the bias of the layer before
# it, clips and divides.
_LAST_STEPS = {"batch_norm": "affine", "hardsigmoid": "mul", "silu": "mul"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operator of the file.

    Attributes:
        kind: as of the operator that it comes from; besides ``depthwise``, ``pad``, and ``affine``, a BatchNorm that no
            layer takes in.
        layer: module that it comes from.
        reads: tensors.
        writes: tensor.
    """

    kind: str
    layer: str
    reads: tuple[int, ...]
    writes: int


@dataclass(slots=True)
class Lowering:
    """Goes from torch's operators to the file's, and remembers where each torch tensor lies.

    Attributes:
        steps: of the file, in order.
        sizes: bytes of every tensor, as vectors ``v`` (see ``operators``).
        shapes: of every tensor, as torch has them with all channels.
        place: position of an operator of torch's to the tensor that holds what it makes.
    """

    operators: Sequence[Operator]
    rotate: bool
    steps: list[Step] = field(default_factory=list)
    sizes: list[np.ndarray] = field(default_factory=list)
    place: dict[int, int] = field(default_factory=dict)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    _makers: dict[int, str] = field(default_factory=dict)
    _readers: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for position, operator in enumerate(self.operators):
            for source in operator.sources:
                self._readers.setdefault(source, []).append(position)
        for position, operator in enumerate(self.operators):
            self.place[position] = self._lower(position, operator)

    def _lower(self, position: int, operator: Operator) -> int:
        kind = operator.kind
        if not operator.sources:
            return self._tensor(operator.elements, "input", operator.shape)
        if self._vanishes(position, operator):
            return self.place[operator.sources[0]]
        if kind in ("conv2d", "max_pool2d", "avg_pool2d"):
            return self._slide(operator)
        middle = self._before(operator)
        return self._step(_LAST_STEPS.get(kind, kind), operator, middle)

    def _before(self, operator: Operator) -> tuple[int, ...]:
        """What the last step of an operator reads: its sources, or what steps before it make of them."""
        kind, sources = operator.kind, self._sources(operator)
        if kind == "batch_norm":
            return (self._step("mul", operator, sources),)
        if kind == "hardsigmoid" and not self._follows(operator, _LAYERS | {"depthwise"}):
            return (self._step("add", operator, sources),)
        if kind == "cat":
            # All parts must have one scale: what a layer reads as well gets a copy with this one's.
            return tuple(self._rescale(operator, source) for source in dict.fromkeys(operator.sources))
        if kind == "silu":
            return (*sources, self._step("sigmoid", operator, sources))
        return sources

    def _vanishes(self, position: int, operator: Operator) -> bool:
        source = self.operators[operator.sources[0]]
        if operator.kind in _VIEWS or (operator.kind == "cat" and operator.shape == source.shape):
            return True
        if operator.kind == "batch_norm":
            return source.kind in _LAYERS and len(self._readers[operator.sources[0]]) == 1
        if operator.kind in _CLIPS:
            usual = operator.limits is None or operator.limits in ((0.0, 6.0), (0.0, 1.0), (-1.0, 1.0))
            return usual and self._follows(operator, _CLIPPING)
        if operator.kind in ("adaptive_avg_pool2d", "mean"):
            return operator.shape == source.shape or bool(np.array_equal(operator.elements, source.elements))
        if operator.kind == "pad" and operator.pads is not None:
            (reader, *others) = self._readers.get(position, [-1])
            window = self.operators[reader].window if reader >= 0 else None
            return (
                not others
                and window is not None
                and self.operators[reader].kind == "conv2d"
                and window.padding == (0, 0)
                and self._is_same(source.shape, self.operators[reader].shape, window, operator.pads)
            )
        return False

    def _slide(self, operator: Operator) -> int:
        assert operator.window is not None
        window, source = operator.window, self.operators[operator.sources[0]]
        reads = self._sources(operator)
        pads = _padding(source.shape, operator.shape, window)
        if not self._is_same(source.shape, operator.shape, window, pads):
            height, width = source.shape[2:]
            grown = (height + pads[0] + pads[1]) * (width + pads[2] + pads[3]) / (height * width)
            # A padded max-pool goes a pixel at a time first and takes its pick then, see `export.tflite_layout`.
            kind, grown = ("max_pool2d", 1.0) if _is_centred(source.shape, operator) else ("pad", grown)
            padded = self._tensor(source.elements * grown, kind, source.shape)
            self.steps.append(Step(kind=kind, layer=operator.layer, reads=reads, writes=padded))
            reads = (padded,)
        return self._step("depthwise" if operator.depthwise else operator.kind, operator, reads)

    def _is_same(
        self, before: tuple[int, ...], after: tuple[int, ...], window: Window, pads: tuple[int, int, int, int]
    ) -> bool:
        """Whether a file needs no operator for a padding: there is none, or it is what TensorFlow calls SAME."""
        if window.padding is None or not any(pads):
            return True
        for axis in (0, 1):
            size, stride = before[2 + axis], window.stride[axis]
            reach = window.dilation[axis] * (window.kernel[axis] - 1) + 1
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            if self.rotate and max(window.stride) > 1 and after[2 + axis] == -(-size // stride):
                continue
            if pads[2 * axis : 2 * axis + 2] != (total // 2, total - total // 2):
                return False
        return True

    def _follows(self, operator: Operator, kinds: frozenset[str]) -> bool:
        """Whether what it reads was written by such a step for it alone."""
        source = operator.sources[0]
        return len(self._readers[source]) == 1 and self._makers[self.place[source]] in kinds

    def _rescale(self, operator: Operator, source: int) -> int:
        if all(self.operators[reader].kind == "cat" for reader in self._readers[source]):
            return self.place[source]
        copied = self._tensor(self.operators[source].elements, "quantize", self.operators[source].shape)
        step = Step(kind="quantize", layer=operator.layer, reads=(self.place[source],), writes=copied)
        self.steps.append(step)
        return copied

    def _sources(self, operator: Operator) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.place[source] for source in operator.sources))

    def _step(self, kind: str, operator: Operator, reads: tuple[int, ...]) -> int:
        writes = self._tensor(operator.elements, kind, operator.shape)
        self.steps.append(Step(kind=kind, layer=operator.layer, reads=reads, writes=writes))
        return writes

    def _tensor(self, elements: np.ndarray, maker: str, shape: tuple[int, ...]) -> int:
        self.sizes.append(elements)
        self.shapes.append(shape)
        self._makers[len(self.sizes) - 1] = maker
        return len(self.sizes) - 1


def lower_operators(operators: Sequence[Operator], *, rotate: bool) -> Lowering:
    """Find the file's operators.

    Args:
        operators: of the network.
        rotate: padding of strided convolutions vanishes, because the network is exported for rotated images.
    """
    return Lowering(operators, rotate)


def _padding(before: tuple[int, ...], after: tuple[int, ...], window: Window) -> tuple[int, int, int, int]:
    found: list[int] = []
    for axis in (0, 1):
        pad = window.padding[axis] if window.padding is not None else 0
        reach = window.dilation[axis] * (window.kernel[axis] - 1) + 1
        needed = (after[2 + axis] - 1) * window.stride[axis] + reach - before[2 + axis] - pad
        found += [pad, max(pad, needed) if window.ceil else pad]
    return found[0], found[1], found[2], found[3]


def _is_centred(before: tuple[int, ...], operator: Operator) -> bool:
    """Whether a max-pool's windows lie around every s-th pixel, the first one among them."""
    window = operator.window
    return (
        operator.kind == "max_pool2d"
        and window is not None
        and window.padding is not None
        and window.dilation == (1, 1)
        and all(
            window.kernel[axis] == 2 * window.padding[axis] + 1
            and operator.shape[2 + axis] == -(-before[2 + axis] // window.stride[axis])
            for axis in (0, 1)
        )
    )
