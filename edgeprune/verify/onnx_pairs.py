"""An int8 ONNX file as its gates see it: layers with weights, and the QuantizeLinear pairs that they stand between."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto, NodeProto

PAIRS = ("QuantizeLinear", "DequantizeLinear")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRule:
    """A QuantizeLinear or DequantizeLinear; a part is None where it is missing or no constant."""

    node: "NodeProto"
    stored: "np.ndarray | None"
    scale: "np.ndarray | None"
    zero_point: "np.ndarray | None"

    @property
    def axis(self) -> int:
        """Along which there is a scale each; without meaning where there is one scale only."""
        return next((attribute.i for attribute in self.node.attribute if attribute.name == "axis"), 1)

    def agrees(self, other: "PairRule") -> bool:
        """Whether both turn numbers into integers alike."""
        pairs = ((self.scale, other.scale), (self.zero_point, other.zero_point))
        return all(
            one is two or (one is not None and two is not None and one.tobytes() == two.tobytes()) for one, two in pairs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedLayer:
    """An operator with weights, and the rules that its input, weights and bias come through."""

    node: "NodeProto"
    source: PairRule | None
    weight: PairRule | None
    bias: PairRule | None

    @property
    def name(self) -> str:
        """Of the operator."""
        return self.node.name or self.node.op_type

    @property
    def stored(self) -> "np.ndarray | None":
        """The weights as they stand in the file."""
        return self.weight.stored if self.weight is not None else None

    @property
    def output_axis(self) -> int:
        """Of the weights: where the output channels lie."""
        if self.node.op_type == "Gemm":
            return 0 if any(attribute.name == "transB" and attribute.i for attribute in self.node.attribute) else 1
        fixed = {"Conv": 0, "ConvTranspose": 1}
        return fixed.get(self.node.op_type, self.stored.ndim - 1 if self.stored is not None else 0)


class PairGraph:
    """A model with its constants and rules at hand."""

    def __init__(self, model: "ModelProto") -> None:
        from onnx import numpy_helper

        self.nodes = list(model.graph.node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._makers = {name: node for node in self.nodes for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    @cached_property
    def layers(self) -> tuple[WeightedLayer, ...]:
        """Products of two computed tensors have no weights, and are none."""
        found = []
        for node in self.nodes:
            kind = node.op_type.removeprefix("Fused")
            if kind not in _WEIGHTED:
                continue
            source, weight = self.rule(node.input[0]), self.rule(node.input[1])
            computed = node.input[1] not in self.constants and (weight is None or weight.stored is None)
            if kind == "MatMul" and computed:
                continue
            bias = self.rule(node.input[2]) if len(node.input) > 2 else None
            found.append(WeightedLayer(node=node, source=source, weight=weight, bias=bias))
        return tuple(found)

    @cached_property
    def rules(self) -> tuple[PairRule, ...]:
        """Of everything that is turned into integers and back."""
        found = (self.rule(name) for node in self.nodes for name in node.output)
        return tuple(rule for rule in found if rule is not None)

    def rule(self, name: str) -> PairRule | None:
        """The rule that computes a tensor, if one does."""
        node = self._makers.get(name)
        if node is None or node.op_type not in PAIRS:
            return None
        stored, scale = (self.constants.get(each) for each in node.input[:2])
        zero = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        return PairRule(node=node, stored=stored, scale=scale, zero_point=zero)

    def is_rounded(self, name: str) -> bool:
        """Whether everybody reads a tensor through a rule; a ReLU on the way is computed in int8 too."""
        readers = self._readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
            return self.is_rounded(readers[0].output[0])
        return bool(readers) and all(reader.op_type == "QuantizeLinear" for reader in readers)
