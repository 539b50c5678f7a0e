"""Channels of a chain computed a few at a time: the ways to cut them, and what each leaves of the peak.

Planning prices with this what quantisation does, so both count alike.
"""

from dataclasses import dataclass
from itertools import combinations, pairwise

# Kernels handle channels in fours, and every part reads the input again.
UNIT = 4
MOST_PARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainBytes:
    """Sizes of what a chain of convolution, hard-swish and depthwise convolution reads and writes, int8 bytes.

    Attributes:
        source: of what the convolution reads, all of it.
        wide: of a channel of what convolution and hard-swish write.
        padded: of a channel behind padding in front of the depthwise convolution; 0 where nothing is padded.
        narrow: of a channel of what the depthwise convolution writes.
    """

    source: int
    wide: int
    padded: int
    narrow: int


def list_cuts(channels: int) -> list[tuple[int, ...]]:
    """All ways to cut channels into a few parts of whole units; the one that cuts nothing comes first.

    >>> list_cuts(8), list_cuts(6)
    ([(8,), (4, 4)], [(6,)])
    """
    places = () if channels % UNIT else range(UNIT, channels, UNIT)
    return [
        tuple(end - start for start, end in pairwise((0, *cuts, channels)))
        for count in range(MOST_PARTS)
        for cuts in combinations(places, count)
    ]


def peak_of_cut(sizes: tuple[int, ...], each: ChainBytes) -> int:
    """Bytes that are alive at once, at most, while a chain is computed in parts of so many channels."""
    peak = joined = 0
    for number, size in enumerate(sizes):
        waiting = joined + (each.source if number < len(sizes) - 1 else 0)
        read = each.padded or each.wide
        peak = max(
            peak,
            joined + each.source + size * each.wide,
            waiting + 2 * size * each.wide,
            waiting + size * (each.wide + each.padded),
            waiting + size * (read + each.narrow),
        )
        joined += size * each.narrow
    return max(peak, 2 * joined if len(sizes) > 1 else 0)
