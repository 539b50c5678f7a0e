"""What computing the widest hard-swish in parts would leave of its peak.

A convolution, its hard-swish and the depthwise convolution that alone reads it can be computed a few channels at a
time: only the small results wait for each other. ``edgeprune.quantise.parts`` does it; here it is priced.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeprune.channel_parts import ChainBytes, list_cuts, peak_of_cut
from edgeprune.plan.file_steps import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Steps that could be computed in parts; tensors go by their numbers.

    Attributes:
        moments: numbers of the steps, in order.
        source: what the convolution reads.
        wide: what the hard-swish writes.
        padded: what a padding in front of the depthwise convolution writes; ``wide`` where there is none.
        narrow: what the depthwise convolution writes.
        pixels: of ``wide``.
    """

    moments: tuple[int, ...]
    source: int
    wide: int
    padded: int
    narrow: int
    pixels: int

    def renumbered(self, numbers: Mapping[int, int]) -> "Chain":
        """The same chain where moments go by other numbers."""
        return replace(self, moments=tuple(numbers[moment] for moment in self.moments))


def find_chains(steps: Sequence[Step], shapes: Sequence[tuple[int, ...]]) -> tuple[Chain, ...]:
    """Convolution, hard-swish and depthwise convolution, each the only reader of the one before.

    Args:
        steps: of the file.
        shapes: of its tensors.
    """
    readers: dict[int, list[int]] = {}
    for moment, step in enumerate(steps):
        for tensor in step.reads:
            readers.setdefault(tensor, []).append(moment)
    found = []
    for moment, step in enumerate(steps):
        moments, kinds = [moment], [step.kind]
        while len(moments) < 4 and len(after := readers.get(steps[moments[-1]].writes, [])) == 1:
            moments += after
            kinds.append(steps[after[0]].kind)
        length = 4 if kinds[2:3] == ["pad"] else 3
        if kinds[:2] == ["conv2d", "hardswish"] and kinds[length - 1 : length] == ["depthwise"]:
            tensors = [steps[each].writes for each in moments[:length]]
            found.append(
                Chain(
                    moments=tuple(moments[:length]),
                    source=step.reads[0],
                    wide=tensors[1],
                    padded=tensors[length - 2],
                    narrow=tensors[-1],
                    pixels=math.prod(shapes[tensors[1]][2:]),
                )
            )
    return tuple(found)


def peak_in_parts(chain: Chain, sizes: np.ndarray) -> int:
    """The lowest peak over all ways to cut the channels of a chain.

    Args:
        chain: see there.
        sizes: bytes of every tensor, shape (tensors,).
    """
    channels = round(float(sizes[chain.wide]) / chain.pixels)
    if channels < 1:
        return 0
    wide, padded, narrow = (
        round(float(sizes[tensor]) / channels) for tensor in (chain.wide, chain.padded, chain.narrow)
    )
    each = ChainBytes(
        source=round(float(sizes[chain.source])),
        wide=wide,
        padded=padded if chain.padded != chain.wide else 0,
        narrow=narrow,
    )
    return _lowest_peak(channels, each)


@functools.lru_cache(maxsize=4096)
def _lowest_peak(channels: int, each: ChainBytes) -> int:
    return min(peak_of_cut(sizes, each) for sizes in list_cuts(channels))
