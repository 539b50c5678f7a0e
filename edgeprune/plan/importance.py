"""How much each channel matters."""

from collections.abc import Sequence
from typing import Literal, get_args
from zlib import crc32

import numpy as np
from torch import Tensor, nn

from edgeprune.dependencies import ChannelGroup
from edgeprune.errors import InputError
from edgeprune.plan.importance_scale import scale_scores
from edgeprune.plan.importance_weights import score_gammas, score_weights
from edgeprune.plan.observe import observe_channels

Importance = Literal["l1_norm", "l2_norm", "bn_gamma", "fpgm", "taylor", "activation", "lamp", "random"]
Coupled = Literal["producer", "all"]
Normalise = Literal["none", "layer", "isomorphic"]
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)


def score_channels(
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    *,
    importance: Importance,
    coupled: Coupled = "producer",
    normalise: Normalise = "none",
    batches: Sequence[tuple[Tensor, Tensor]] | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """One score a channel, comparable over the whole network; low scores go first.

    Norms and distances are per weight (a mean, a root mean square), not sums as in the papers: the order within a layer
    is theirs, and layers with different numbers of inputs or filters can be ranked together.

    Args:
        network: not changed.
        groups: its census.
        importance: what is read off a channel.

            ``l1_norm``: mean absolute weight of its filter. Li et al. 2017, "Pruning Filters for Efficient ConvNets".

            ``l2_norm``: root mean square weight of its filter. He et al. 2018, "Soft Filter Pruning for Accelerating
            Deep Convolutional Neural Networks", equation 2 with p = 2.

            ``bn_gamma``: absolute scale of the first BatchNorm of its group. Liu et al. 2017, "Learning Efficient
            Convolutional Networks through Network Slimming".

            ``fpgm``: root mean square difference to each of the layer's other filters, averaged over those: filters
            near the layer's geometric median can be made up for by the others. He et al. 2019, "Filter Pruning via
            Geometric Median for Deep Convolutional Neural Networks Acceleration", equation 6.

            ``lamp``: squared norm of its filter as a share of all that are not smaller in its layer. Lee et al. 2021,
            "Layer-adaptive Sparsity for the Magnitude-based Pruning", equation 4, with filters for weights.

            ``taylor``: squared first-order change of a batch's mean loss (cross entropy) when the channel is closed,
            averaged over batches by their images. Molchanov et al. 2019, "Importance Estimation for Neural Network
            Pruning", equation 8 with a gate behind BatchNorm (their Taylor-FO-BN). The larger the batches, the nearer
            to what closing one channel does to the mean loss; the smaller, the nearer to the Fisher information, which
            does not vanish where training has converged.

            ``activation``: mean square of what the channel puts out, behind BatchNorm. Molchanov et al. 2017, "Pruning
            Convolutional Neural Networks for Resource Efficient Inference", section 2.2; squared, because what
            BatchNorm gives has both signs.

            ``random``: uniform in [0, 1), the baseline that every other one has to beat. Mittal et al. 2018,
            "Recovering from Random Pruning".
        coupled: ``producer`` looks at the layer that makes the channels. ``all`` takes the mean over all layers of the
            group: filters where they are made, scaled or gated, input columns where they are read (Fang et al. 2023,
            "DepGraph: Towards Any Structural Pruning", section 3.3; its sum over layers here a mean, so that a group
            with more layers does not matter more). ``bn_gamma`` then takes all BatchNorms. ``random`` is the same.
        normalise: ``layer`` divides each group's scores by their mean. ``isomorphic`` turns scores into ranks among
            all channels of groups of like structure. Both: ``scale_scores``.
        batches: normalised images, float32, shape (n, 3, height, width), and their classes, int64, shape (n,), for
            ``taylor`` and ``activation``.
        seed: of ``random``. A group's scores depend on its name, not on which other groups there are.

    Returns:
        Group name to float64 scores, shape (channels,), not negative.

    Raises:
        InputError: the importance is blind to a layer or to the whole network, it needs images and got none, or it met
            numbers that are not finite.
    """
    match importance:
        case "random":
            scores = {group.layer: _draw(group, seed) for group in groups}
        case "bn_gamma":
            scores = score_gammas(network, groups, coupled=coupled)
        case "taylor" | "activation":
            scores = observe_channels(network, groups, importance=importance, coupled=coupled, batches=batches)
        case _:
            scores = score_weights(network, groups, importance=importance, coupled=coupled)
    if importance != "random":
        _refuse_blind(scores, importance)
    scaled = scale_scores(network, groups, scores, normalise=normalise)
    if importance != "random" and _all_equal(scaled):
        raise InputError(
            f"prune.normalise = {normalise!r} leaves nothing to rank by {importance!r}: channels of one layer do not "
            "differ, and differences between layers are taken out.",
            "normalise: none, or another importance",
        )
    return scaled


def _draw(group: ChannelGroup, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, crc32(group.layer.encode())]).random(group.channels)


def _refuse_blind(scores: dict[str, np.ndarray], importance: Importance) -> None:
    if not _all_equal(scores):
        return
    if importance == "bn_gamma":
        raise InputError(
            "prune.importance = 'bn_gamma' cannot rank: every BatchNorm scale has the same value, as in a network "
            "that was never trained.",
            "importance: l1_norm, or a trained baseline",
        )
    raise InputError(
        f"prune.importance = {importance!r} cannot rank: every channel of the network has the same score.",
        "another importance, or a trained baseline",
    )


def _all_equal(scores: dict[str, np.ndarray]) -> bool:
    values = np.concatenate([*scores.values(), np.empty(0)])
    return len(values) > 0 and bool((values == values[0]).all())
