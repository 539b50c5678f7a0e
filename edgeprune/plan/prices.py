"""What each group has to do with the costs of the whole network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgeprune.plan.cost_model import CostModel


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPrice:
    """What one group has to do with the costs of the whole network.

    Attributes:
        layer: names the group.
        params_share, macs_share, flash_share: that would go with all of its channels, in [0, 1]. What two groups share
            (the weights between them) counts in both.
        ram_share: of the peak, that is its channels.
        ram_bytes_per_block: by which one block less lowers what is alive at the peak.
    """

    layer: str
    params_share: float
    macs_share: float
    flash_share: float
    ram_share: float
    ram_bytes_per_block: int


def price_groups(model: CostModel, *, align: int = 1, units: Mapping[str, int] | None = None) -> tuple[GroupPrice, ...]:
    """What each group costs, all channels there.

    Args:
        model: of the network.
        align: block size.
        units: group name to the channels that only go together; 1 where it is not named.
    """
    x = model.vector({})
    peak, moment = model.memory.peak(x)
    slopes = model.memory.slopes()[moment]
    prices = []
    for index, layer in enumerate(model.groups):
        without = x.copy()
        without[1 + index] = 0.0
        shares = [
            1 - float(without @ model.matrices[bound] @ without) / float(x @ model.matrices[bound] @ x)
            for bound in ("params", "macs", "flash_bytes")
        ]
        block = math.lcm(align, (units or {}).get(layer, 1))
        prices.append(
            GroupPrice(
                layer=layer,
                params_share=shares[0],
                macs_share=shares[1],
                flash_share=shares[2],
                ram_share=float(slopes[index]) * model.channels[index] / peak,
                ram_bytes_per_block=round(float(slopes[index]) * block),
            )
        )
    return tuple(prices)
