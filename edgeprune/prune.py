"""Surgery: make a network physically smaller, or pad it back to convenient channel counts."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgeprune.dependencies import ChannelGroup
from edgeprune.errors import InputError
from edgeprune.masking import cut_groups
from edgeprune.results import ChannelPlan
from edgeprune.zoo import Channels, cut_channels, read_channels, resize_channels


def remove_channels(
    network: nn.Module, groups: Iterable[ChannelGroup], plan: ChannelPlan, *, image_size: int
) -> nn.Module:
    """Remove a plan's channels and everything that depends on them.

    In evaluation mode the result computes what the full network computes with those channels set to zero at the input
    of every layer that reads them.

    Args:
        network: the network that the plan was made for; not changed.
        groups: its census.
        plan: channels to keep, per group.
        image_size: height and width of the input, pixels.

    Returns:
        A smaller copy in evaluation mode.

    Raises:
        ValueError: nothing would be left of a layer.
        InputError: the network's own code holds on to channel counts and does not run with fewer.
    """
    for group in plan.groups:
        if not group.kept:
            raise ValueError(f"{group.layer}: removing {group.channels} channels would leave a layer without any")
    gone = {group.layer: set(range(group.channels)) - set(group.kept) for group in plan.groups}
    made, read = cut_groups(groups, gone)
    small = cut_channels(network, made=made, read=read).eval()
    try:
        with torch.no_grad():
            small(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"The network does not run with fewer channels ({reason}).",
            "read channel counts from tensors in `forward`, or name those modules in prune.protect",
        ) from None
    return small


def pad_channels(network: nn.Module, groups: Iterable[ChannelGroup], *, multiple: int) -> nn.Module:
    """Add channels of zeros until every group has a multiple of a number; the function stays exactly the same.

    ONNX Runtime's blocked convolution kernels need multiples of 4: a network with 0.62 of the MACs and odd channel
    counts took 1.71 times as long as the unpruned one, and 0.71 once padded.

    Args:
        network: not changed.
        groups: its census; all of them, protected or not.
        multiple: of what the channel counts become.

    Returns:
        A wider copy in evaluation mode. Added channels have zero weights wherever they are made and read; their
        BatchNorm has variance 1.
    """
    padded = copy.deepcopy(network).eval()
    before = read_channels(network)
    wanted = {name: dict(counts) for name, counts in before.items()}
    for group in groups:
        extra = -group.channels % multiple
        if not _can_grow(group, before):
            continue
        for member in group.members:
            _widen(wanted[member.layer], extra, reads_only=member.side == "in")
    resize_channels(padded, {name: counts for name, counts in wanted.items() if counts != before[name]})
    padded.load_state_dict(_embed(network.state_dict(), padded.state_dict()))
    return padded


def _can_grow(group: ChannelGroup, counts: dict[str, Channels]) -> bool:
    # Behind a concatenation or a flattened map new channels would have to come in between.
    return group.unit == 1 and all(
        member.indices == member.roots and group.channels == _channels_of(counts[member.layer], member.side)
        for member in group.members
    )


def _channels_of(counts: Channels, side: str) -> int:
    if "num_features" in counts:
        return counts["num_features"]
    return counts[f"{side}_features" if "in_features" in counts else f"{side}_channels"]


def _widen(counts: Channels, extra: int, *, reads_only: bool) -> None:
    if "num_features" in counts:
        counts["num_features"] += extra
    elif "in_features" in counts:
        counts["in_features" if reads_only else "out_features"] += extra
    elif reads_only:
        counts["in_channels"] += extra
    else:
        if counts["groups"] > 1:  # depthwise: one group a channel
            counts["in_channels"] += extra
            counts["groups"] += extra
        counts["out_channels"] += extra


def _embed(small: dict[str, Tensor], large: dict[str, Tensor]) -> dict[str, Tensor]:
    # The large state is changed and not rebuilt, because torch keeps the modules' versions in an attribute of it.
    for name, tensor in large.items():
        value = torch.ones_like(tensor) if name.endswith("running_var") else torch.zeros_like(tensor)
        value[tuple(slice(0, size) for size in small[name].shape)] = small[name]
        large[name] = value
    return large
