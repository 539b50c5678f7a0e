"""The scratch memory that CMSIS-NN's kernels ask of TFLite Micro's arena, on top of what the reference kernels need.

TFLite Micro runs with reference kernels on a PC, and those need no scratch; a Cortex-M runs CMSIS-NN's. So what an
arena must hold beyond the measured one is an allowance, from the formulas of that library. Needs the package
ai-edge-litert (extra ``mcu``), no torch.
"""

import math
from typing import Any

from edgeprune.tflite_format import operator_names, read_model

_ALIGNMENT = 16
# Channels that the vector (MVE) kernel of depthwise convolution copies at a time.
_DEPTHWISE_BLOCK = 124


def cmsis_nn_scratch_bytes(content: bytes) -> int:
    """Bytes to allow for: the largest scratch of one operator, and what stays allocated for all of them.

    The larger of the DSP kernels' (Cortex-M4, M7, M33) and the MVE kernels' (M55, M85) counts. Convolution copies
    patches: four of them in int8, or two in int16, each rounded up to 16 elements. Depthwise convolution copies two
    bytes a weight, or four times 124 channels. Average pooling sums one row of channels. The MVE fully connected
    kernel keeps a sum of 4 bytes an output.

    Args:
        content: an int8 TFLite file.

    Raises:
        InputError: it is no TFLite file.

    Source:
        github.com/ARM-software/CMSIS-NN, the files ``arm_*_get_buffer_sizes_s8.c``.
    """
    model = read_model(content)
    graph = model.subgraphs[0]
    scratch, kept = [0], 0
    for kind, operator in zip(operator_names(model), graph.operators, strict=True):
        shapes = [_shape(graph, index) for index in operator.inputs]
        if kind == "CONV_2D":
            scratch.append(4 * _aligned(math.prod(shapes[1][1:])))
        elif kind == "DEPTHWISE_CONV_2D":
            rows, columns, channels = shapes[1][1:]
            scratch.append(rows * columns * max(2 * channels, 4 * _DEPTHWISE_BLOCK))
        elif kind == "AVERAGE_POOL_2D":
            scratch.append(4 * shapes[0][-1])
        elif kind == "FULLY_CONNECTED":
            kept += _aligned(4 * shapes[1][0])
    return _aligned(max(scratch)) + kept


def _shape(graph: Any, index: int) -> tuple[int, ...]:
    return () if index < 0 else tuple(int(side) for side in graph.tensors[index].shape)


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT
