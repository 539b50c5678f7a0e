"""What a network would cost with any number of channels kept in each group, without building it.

Parameters, multiply-accumulates, bytes of the int8 file and milliseconds are sums of products of two channel counts (a
convolution's inputs and outputs), so one matrix each gives them: ``x @ matrix @ x`` with ``x = (1, kept ...)``. Peak
memory is the largest of many sums of channel counts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from edgeprune.dependencies import ChannelGroup
from edgeprune.plan.counts import list_macs, list_params
from edgeprune.plan.flash import list_flash
from edgeprune.plan.liveness import MemoryPlan, plan_memory
from edgeprune.plan.operators import LayerChannels, trace_operators
from edgeprune.plan.products import Product, add_up, largest_layer
from edgeprune.plan.tail import sum_tail


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """What one image, or the file, costs.

    Attributes:
        params: weights and biases, BatchNorm's included.
        macs: multiply-accumulates of one image, counter fvcore.
        ram_bytes: head of TFLite Micro's arena, int8.
        ram_at: what is alive when it is full.
        arena_bytes: head and tail; once calibrated, with the scratch that was measured.
        flash_bytes: of the int8 file.
        latency_ms: of one call, or None where nothing is known about it.
    """

    params: int
    macs: int
    ram_bytes: int
    ram_at: str
    arena_bytes: int
    flash_bytes: int
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """Milliseconds by operator, as measured on one machine.

    Attributes:
        fixed_ms: of a call that computes nothing.
        ms_per_mac: by layer name, or by kind: ``conv``, ``pointwise``, ``depthwise``, ``linear``, ``batch_norm``,
            ``pool``; a layer's own entry counts first. What has no entry takes no time.
    """

    fixed_ms: float
    ms_per_mac: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CostModel:
    """Costs as functions of the channels that each group keeps.

    Attributes:
        groups: names, in the order of the vectors' places.
        channels: how many each has.
        products: by bound (``params``, ``macs``, ``flash_bytes``, ``latency_ms``), what it is the sum of.
        matrices: by bound, the sum; symmetric, shape (1 + groups, 1 + groups).
        memory: what lives together.
        tail: bytes of the arena's tail, one vector, shape (1 + groups,).
        ram_factor: real over predicted head.
    """

    groups: tuple[str, ...]
    channels: tuple[int, ...]
    products: Mapping[str, tuple[Product, ...]]
    matrices: Mapping[str, np.ndarray]
    memory: MemoryPlan
    tail: np.ndarray
    ram_factor: float = 1.0
    _places: Mapping[str, int] = field(repr=False, default_factory=dict)

    @property
    def memories(self) -> dict[str, MemoryPlan]:
        """By bound: what is in use at each moment, in bytes that ``ram_factor`` makes real ones."""
        return {"ram_bytes": self.memory, "arena_bytes": replace(self.memory, resident=self.tail / self.ram_factor)}

    def vector(self, kept: Mapping[str, int]) -> np.ndarray:
        """``x``; groups that are not named keep everything.

        Raises:
            KeyError: a group that the model does not know.
        """
        x = np.array([1, *self.channels], float)
        for group, count in kept.items():
            x[self._places[group]] = count
        return x

    def cost(self, kept: Mapping[str, int]) -> ModelCost:
        """Everything, for a plan that keeps these numbers of channels."""
        x = self.vector(kept)
        ram_bytes, moment = self.memory.peak(x)
        head_bytes = math.ceil(ram_bytes * self.ram_factor - 1e-9)
        known = {bound: float(x @ matrix @ x) for bound, matrix in self.matrices.items()}
        return ModelCost(
            params=round(known["params"]),
            macs=round(known["macs"]),
            ram_bytes=head_bytes,
            ram_at=self.memory.names[moment],
            arena_bytes=head_bytes + math.ceil(float(self.tail @ x) - 1e-9),
            flash_bytes=round(known["flash_bytes"]),
            latency_ms=known.get("latency_ms"),
        )

    def largest(self, bound: str, kept: Mapping[str, int]) -> str:
        """The layer that most of a cost is in; for memory, what is alive at the peak."""
        if bound in self.memories:
            return self.cost(kept).ram_at
        return largest_layer(self.products[bound], self.vector(kept))

    def macs_by_kind(self, kept: Mapping[str, int]) -> dict[str, int]:
        """Multiply-accumulates by kind of operator: what a ``LatencyTable`` is fitted to."""
        x = self.vector(kept)
        found: dict[str, float] = {}
        for product in self.products["macs"]:
            found[product.kind] = found.get(product.kind, 0.0) + product.value(x)
        return {kind: round(count) for kind, count in found.items()}

    def with_latency(self, table: LatencyTable) -> "CostModel":
        """The same model, which knows milliseconds too."""
        timed = [Product(layer="", kind="call", factor=table.fixed_ms, one=_unit(self), other=_unit(self))]
        for product in self.products["macs"]:
            rate = table.ms_per_mac.get(product.layer, table.ms_per_mac.get(product.kind, 0.0))
            timed.append(replace(product, factor=product.factor * rate))
        return self._changed("latency_ms", tuple(timed))

    def calibrated(self, *, real: ModelCost, predicted: ModelCost) -> "CostModel":
        """The same model, corrected by what one exported level really came to.

        Flash and the arena's tail move by the difference, because what is unknown about them (texts, tables, scratch)
        does not shrink with the weights; activations and milliseconds by the ratio. Parameters and
        multiply-accumulates are exact as they are.

        Args:
            real: measured.
            predicted: by this model, for the same level.
        """
        unit = _unit(self)
        extra = Product(
            layer="", kind="file", factor=float(real.flash_bytes - predicted.flash_bytes), one=unit, other=unit
        )
        model = self._changed("flash_bytes", (*self.products["flash_bytes"], extra))
        if real.latency_ms and predicted.latency_ms:
            ratio = real.latency_ms / predicted.latency_ms
            timed = tuple(replace(each, factor=each.factor * ratio) for each in self.products["latency_ms"])
            model = model._changed("latency_ms", timed)
        tail = self.tail.copy()
        tail[0] += (real.arena_bytes - real.ram_bytes) - (predicted.arena_bytes - predicted.ram_bytes)
        return replace(model, tail=tail, ram_factor=self.ram_factor * real.ram_bytes / predicted.ram_bytes)

    def _changed(self, bound: str, products: tuple[Product, ...]) -> "CostModel":
        return replace(
            self,
            products={**self.products, bound: products},
            matrices={**self.matrices, bound: add_up(products, 1 + len(self.groups))},
        )


def trace_costs(
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    *,
    image_size: int,
    rotate: bool = False,
    split_peak: bool = False,
) -> CostModel:
    """Trace a network once, and price every plan over its groups.

    Args:
        network: not changed.
        groups: its census.
        image_size: height and width of the input, pixels.
        rotate: it is exported for rotated images, so that strided convolutions need no padding of their own.
        split_peak: the widest hard-swish is computed in parts where that lowers the peak.
    """
    layers = LayerChannels(network, groups)
    operators = trace_operators(network, layers, image_size=image_size)
    memory = plan_memory(operators, rotate=rotate, split_peak=split_peak)
    products = {
        "params": tuple(list_params(network, layers)),
        "macs": tuple(list_macs(operators, layers)),
        "flash_bytes": tuple(list_flash(network, layers, memory)),
    }
    return CostModel(
        groups=tuple(group.layer for group in groups),
        channels=tuple(group.channels for group in groups),
        products=products,
        matrices={bound: add_up(found, layers.places) for bound, found in products.items()},
        memory=memory,
        tail=sum_tail(network, layers, memory),
        _places={group.layer: place for place, group in enumerate(groups, start=1)},
    )


def _unit(model: CostModel) -> np.ndarray:
    unit = np.zeros(1 + len(model.groups))
    unit[0] = 1.0
    return unit
