"""What a network costs: parameters, multiply-accumulates, peak activation memory."""

import copy
import logging
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.results import BlockCost, CostReport
from edgeprune.zoo.tracing import trace_program

# Operators that runtimes fuse into the convolution before them, or that only look at memory differently: their output
# occupies no memory of its own. Hard-swish and hard-sigmoid are missing on purpose: TFLite runs them out of place.
_FREE_OPERATORS = frozenset(
    {
        "batch_norm", "relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_", "constant_pad_nd", "pad",
        "dropout", "dropout_", "feature_dropout", "flatten", "view", "reshape", "squeeze", "unsqueeze", "permute",
        "transpose", "contiguous", "detach", "alias", "identity", "getitem",
    }
)  # fmt: skip


def audit_cost(network: nn.Module, *, image_size: int, weights_file: Path | None = None) -> CostReport:
    """Count what one image costs.

    Args:
        network: not changed.
        image_size: height and width of the input, pixels.
        weights_file: its size is reported as ``checkpoint_bytes``.

    Raises:
        InputError: its forward depends on the values in its tensors, so that it cannot be traced.

    Source:
        fvcore's ``FlopCountAnalysis``, which counts one multiply-accumulate as one.
    """
    network = copy.deepcopy(network).eval()
    image = torch.zeros(1, 3, image_size, image_size)
    by_operator, by_module = _count_fvcore(network, image)
    peak_bytes, peak_at = _find_peak(network, image)
    return CostReport(
        params=sum(parameter.numel() for parameter in network.parameters()),
        macs_by_operator=by_operator,
        macs_thop=count_macs_thop(network, image),
        blocks=_cost_of_blocks(network, by_module),
        peak_activation_bytes=peak_bytes,
        peak_activation_at=peak_at,
        checkpoint_bytes=weights_file.stat().st_size if weights_file is not None else 0,
    )


def count_macs_thop(network: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates by the formulas of the counter thop, which the seed log used.

    Convolutions and linear layers count as usual; BatchNorm counts 4 per element; an adaptive average pool counts its
    window's elements and 1 for the division, per output. Written out here because thop is no longer kept and changes
    the network that it counts.

    Source:
        thop 0.1.1, ``vision/basic_hooks.py`` and ``calc_func.py``.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, nn.BatchNorm2d):
            total += 4 * inputs[0].numel()
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            total += inputs[0].numel() + output.numel()

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    with torch.inference_mode():
        network(image)
    for hook in hooks:
        hook.remove()
    return total


def _count_fvcore(network: nn.Module, image: Tensor) -> tuple[dict[str, int], dict[str, int]]:
    from fvcore.nn import FlopCountAnalysis

    logger = logging.getLogger("fvcore")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # The tracer warns of the Python arithmetic in SAME padding, whose sizes are constants here.
            warnings.simplefilter("ignore")
            # Element-wise operators are left uncounted, as in every published figure of this counter.
            analysis = FlopCountAnalysis(network, image).unsupported_ops_warnings(enabled=False)
            analysis.uncalled_modules_warnings(enabled=False)
            by_operator = {name: int(count) for name, count in analysis.by_operator().items() if count}
            by_module = {name: int(count) for name, count in analysis.by_module().items()}
    finally:
        logger.setLevel(level)
    return dict(sorted(by_operator.items())), by_module


def _cost_of_blocks(network: nn.Module, macs: dict[str, int]) -> tuple[BlockCost, ...]:
    """Blocks are modules at depth two (``features.4``), or at depth one where there is nothing below."""
    blocks = []
    for name, module in network.named_children():
        children = list(module.named_children()) or [("", module)]
        for child_name, child in children:
            full = f"{name}.{child_name}".rstrip(".")
            params = sum(parameter.numel() for parameter in child.parameters())
            if params or macs.get(full, 0):
                blocks.append(BlockCost(name=full, macs=macs.get(full, 0), params=params))
    return tuple(blocks)


def _find_peak(network: nn.Module, image: Tensor) -> tuple[int, str]:
    """Largest sum of live float32 tensors over the operators in execution order, and the operator where it occurs.

    At each operator its inputs, its output and everything that is read later are alive. This is how a static arena
    is planned (TFLite Micro's head equals it on graphs with the same operators).
    """
    graph = trace_program(network, image_size=image.shape[-1]).graph_module.graph
    storage: dict[Any, Any] = {}  # node -> the node whose memory it occupies
    last_use: dict[Any, int] = defaultdict(int)
    nodes = [node for node in graph.nodes if node.op == "call_function" or _is_image(node)]
    position = {node: index for index, node in enumerate(nodes)}
    for node in nodes:
        inputs = [storage[value] for value in node.all_input_nodes if value in storage]
        free = node.op == "call_function" and _operator_name(node) in _FREE_OPERATORS and bool(inputs)
        storage[node] = inputs[0] if free else node
        for value in (storage[node], *inputs):
            last_use[value] = max(last_use[value], position[node])
    sizes = {node: _size_bytes(node) for node in nodes if storage[node] is node}
    peak, where = 0, ""
    for index, node in enumerate(nodes):
        live = sum(
            size for owner, size in sizes.items() if position[owner] <= index <= max(last_use[owner], position[owner])
        )
        if live > peak:
            peak, where = live, _describe(node)
    return peak, where


def _is_image(node: Any) -> bool:
    # Parameters and buffers are placeholders too; they live in flash.
    return bool(node.op == "placeholder" and not node.name.startswith(("p_", "b_", "c_")))


def _operator_name(node: Any) -> str:
    name = getattr(node.target, "__name__", str(node.target))
    return str(name).partition(".")[0]


def _size_bytes(node: Any) -> int:
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else (value,)
    return sum(4 * item.numel() for item in values if isinstance(item, Tensor))


def _describe(node: Any) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    innermost = list(stack.values())[-1][0] if stack else "input"
    module = str(innermost).removeprefix("L['self'].") or node.name
    return f"{module} ({_operator_name(node)})" if node.op == "call_function" else "input"
