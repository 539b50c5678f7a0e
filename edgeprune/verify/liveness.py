"""The arena head that a file needs, computed from the file alone: the largest sum of tensors that live together."""

import math
from dataclasses import dataclass

from edgeprune.tflite_format import read_model

_ALIGNMENT = 16
# The schema's number of a type to the bytes of an element.
_ELEMENT_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 9: 1, 10: 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """The moment at which most memory is in use.

    Attributes:
        peak_bytes: of activations, each rounded up to 16 bytes.
        operator_index: of the operator that runs then.
    """

    peak_bytes: int
    operator_index: int


def find_peak(content: bytes) -> Liveness:
    """The peak of live activations over the operators in their order.

    A tensor lives from the operator that writes it (the input: from the start) to the last one that reads it.

    Raises:
        InputError: it is no TFLite file.
    """
    model = read_model(content)
    graph = model.subgraphs[0]
    sizes, first, last = {}, {}, {}
    for index in graph.inputs:
        first[int(index)] = last[int(index)] = 0
    for step, operator in enumerate(graph.operators):
        for index in (int(i) for i in operator.inputs):
            if index in first:
                last[index] = step
        for index in (int(i) for i in operator.outputs):
            first[index] = last[index] = step
    for index in graph.outputs:
        last[int(index)] = len(graph.operators) - 1
    for index in first:
        tensor = graph.tensors[index]
        size = math.prod(int(side) for side in tensor.shape) * _ELEMENT_BYTES.get(tensor.type, 4)
        sizes[index] = -(-size // _ALIGNMENT) * _ALIGNMENT
    live = [
        sum(size for index, size in sizes.items() if first[index] <= step <= last[index])
        for step in range(len(graph.operators))
    ]
    peak = max(live)
    return Liveness(peak_bytes=peak, operator_index=live.index(peak))
