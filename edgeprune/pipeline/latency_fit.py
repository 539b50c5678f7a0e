"""From the times of operators and of two whole calls to milliseconds a layer: what stays, and what goes with channels.

What the profiler says about single operators are only shares, and a part of every call stays however few channels are
left. A second network, of the same layers with fewer channels, says how large that part is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from edgeprune.plan.cost_model import CostModel, LatencyTable
from edgeprune.plan.products import Product
from edgeprune.verify.layer_times import LayerTimes

# A second network that is hardly smaller says nothing about what is fixed.
_SMALLER = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLatency:
    """One layer's part of a call.

    Attributes:
        layer: module name.
        kind: of operator, as in ``LatencyTable``. Activations and gates are counted for the BatchNorm whose channels
            they work on, because their time grows with channels alone.
        macs: multiply-accumulates, counter fvcore.
        ms: of the call.
    """

    layer: str
    kind: str
    macs: int
    ms: float


def fit_latency(
    model: CostModel,
    times: LayerTimes,
    *,
    call_ms: float,
    smaller_ms: float,
    smaller_kept: Mapping[str, int],
) -> tuple[float, tuple[LayerLatency, ...]]:
    """The fixed part of a call and the layers' parts, which add up to the whole call.

    Args:
        model: costs of the network.
        times: of its operators, profiled.
        call_ms: of its whole call, not profiled.
        smaller_ms: of the whole call of a network with fewer channels.
        smaller_kept: channels of that one, by group.

    Returns:
        Milliseconds of the fixed part, and of every layer that takes time, in network order.
    """
    found = _list_layers(model, _share_out(times, model.products["macs"]))
    profiled = sum(each.ms for each in found)
    if profiled <= 0:
        return call_ms, ()
    # At least what every operator costs, however little it computes.
    rest = times.operators * times.quickest_ms + times.rest_ms
    fixed = rest / (rest + profiled)
    if smaller_ms < call_ms:
        rates = LatencyTable(fixed_ms=0.0, ms_per_mac={each.layer: each.ms / each.macs for each in found})
        left = (model.with_latency(rates).cost(smaller_kept).latency_ms or 0.0) / profiled
        if left < _SMALLER:
            fixed = max(0.0, 1 - (1 - smaller_ms / call_ms) / (1 - left))
    scale = (1 - fixed) * call_ms / profiled
    return fixed * call_ms, tuple(replace(each, ms=each.ms * scale) for each in found)


def _share_out(times: LayerTimes, products: Sequence[Product]) -> dict[str, float]:
    """Profiled milliseconds by the layer whose multiply-accumulates they grow with."""
    shares = dict(times.own_ms)
    # BatchNorms are folded into the convolutions in front of them, and take no time of their own. Their counts grow
    # with channels as activations do, those of a convolution with channels squared.
    folded = {
        before.layer: product.layer
        for before, product in pairwise(products)
        if product.kind == "batch_norm" and product.layer not in times.own_ms
    }
    for layer, ms in times.after_ms.items():
        place = folded.get(layer, layer)
        shares[place] = shares.get(place, 0.0) + ms
    return shares


def _list_layers(model: CostModel, shares: Mapping[str, float]) -> list[LayerLatency]:
    x: np.ndarray = model.vector({})
    kinds: dict[str, str] = {}
    macs: dict[str, float] = {}
    for product in model.products["macs"]:
        kinds.setdefault(product.layer, product.kind)
        macs[product.layer] = macs.get(product.layer, 0.0) + product.value(x)
    return [
        LayerLatency(layer=layer, kind=kinds[layer], macs=round(count), ms=shares[layer])
        for layer, count in macs.items()
        if shares.get(layer) and round(count)
    ]
