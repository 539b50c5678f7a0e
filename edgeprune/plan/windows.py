"""How convolutions, pools and paddings move over their input, as an exported graph says it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a convolution or a pool moves over its input; each pair is rows, columns.

    Attributes:
        padding: before and after alike; None where it is TensorFlow's SAME by its own account.
        ceil: the last window may reach beyond the padding.
    """

    kernel: Pair
    stride: Pair
    padding: Pair | None
    dilation: Pair
    ceil: bool = False


def read_options(kind: str, node: Any) -> dict[str, Any]:
    """What ``Operator`` keeps of an operator's arguments, by the names of its fields.

    Args:
        kind: as in ``Operator``.
        node: of an exported graph.
    """
    read = _READERS.get(kind)
    return read(node) if read is not None else {}


def _convolution(node: Any) -> dict[str, Any]:
    arguments = _arguments(node, stride=(3, 1), padding=(4, 0), dilation=(5, 1), groups=(6, 1))
    shape = node.args[1].meta["val"].shape
    padding = arguments["padding"]
    if isinstance(padding, str):
        padding = None if padding == "same" else 0
    return {
        "window": Window(
            kernel=(int(shape[2]), int(shape[3])),
            stride=_pair(arguments["stride"]),
            padding=None if padding is None else _pair(padding),
            dilation=_pair(arguments["dilation"]),
        ),
        "depthwise": arguments["groups"] > 1 and shape[0] == arguments["groups"] and shape[1] == 1,
    }


def _max_pool(node: Any) -> dict[str, Any]:
    values = _arguments(node, kernel_size=(1, 1), stride=(2, ()), padding=(3, 0), dilation=(4, 1), ceil_mode=(5, False))
    return {"window": _pool_window(values)}


def _average_pool(node: Any) -> dict[str, Any]:
    values = _arguments(node, kernel_size=(1, 1), stride=(2, ()), padding=(3, 0), ceil_mode=(4, False))
    return {"window": _pool_window(values | {"dilation": 1})}


def _pool_window(values: dict[str, Any]) -> Window:
    kernel = _pair(values["kernel_size"])
    return Window(
        kernel=kernel,
        stride=_pair(values["stride"]) if values["stride"] else kernel,
        padding=_pair(values["padding"]),
        dilation=_pair(values["dilation"]),
        ceil=bool(values["ceil_mode"]),
    )


def _pad(node: Any) -> dict[str, Any]:
    amounts = [int(amount) for amount in node.args[1]]
    constant = len(node.args) < 3 or node.args[2] == "constant"
    if len(amounts) != 4 or min(amounts) < 0 or not constant:
        return {}
    left, right, top, bottom = amounts  # the last dimension first
    return {"pads": (top, bottom, left, right)}


def _clamp(node: Any) -> dict[str, Any]:
    values = _arguments(node, min_val=(1, -1.0), max_val=(2, 1.0))
    return {"limits": (float(values["min_val"]), float(values["max_val"]))}


_READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "conv2d": _convolution,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "pad": _pad,
    "hardtanh": _clamp,
}


def _arguments(node: Any, **wanted: tuple[int, Any]) -> dict[str, Any]:
    """Arguments of an operator by name, from their place or their default."""
    return {
        name: node.args[place] if len(node.args) > place else node.kwargs.get(name, default)
        for name, (place, default) in wanted.items()
    }


def _pair(value: Any) -> Pair:
    if isinstance(value, int):
        return value, value
    return int(value[0]), int(value[-1])
