"""Does a level meet the budget that it was made by, in the files that ship?"""

from collections.abc import Mapping

from edgeprune.budget import Budget
from edgeprune.results import Gate, at_most

_OF = {
    "flash_bytes": "the int8 TFLite file",
    "ram_bytes": "arena head of the int8 TFLite file",
    "arena_bytes": "arena head, tail and CMSIS-NN's scratch for the int8 TFLite file",
    "macs": "counter fvcore",
    "latency_ms": "model.onnx, one thread, this machine",
}


def check_budget(budget: Budget, figures: Mapping[str, float]) -> tuple[Gate, ...]:
    """One gate a bound.

    Args:
        budget: its bounds.
        figures: bound to what was measured; a bound that nothing measured fails.
    """
    return tuple(
        at_most(f"budget_{name}", figures.get(name, float("nan")), bound, _OF.get(name, ""))
        for name, bound in budget.bounds.items()
    )
