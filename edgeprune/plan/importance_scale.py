"""Scores of different layers on one scale."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from torch import nn

from edgeprune.dependencies import ChannelGroup


def scale_scores(
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, np.ndarray],
    *,
    normalise: Literal["none", "layer", "isomorphic"],
) -> dict[str, np.ndarray]:
    """Make scores comparable between layers.

    Args:
        network: says what kind of layer each member of a group is.
        groups: census.
        scores: group name to scores, shape (channels,), not negative.
        normalise: ``none`` leaves them. ``layer`` divides each group's scores by their mean, as in Molchanov et al.
            2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", section 2.2 (there by the
            l2 norm, which grows with the number of channels). A group of zeros stays zero.

            ``isomorphic`` compares like with like. Groups are alike when their layers are: the same sequence of kinds
            (``Conv2d``, ``depthwise``, ``grouped``, ``BatchNorm2d``, ``Linear`` ...) and sides. Within a class of
            like groups, channels are ranked together by score, and a channel's new score is its rank as a fraction of
            the class, in (0, 1); equal scores share the middle of their ranks. A global threshold at t then removes
            the fraction t of every class, which is the paper's rule, and which layer of a class it comes from is
            decided by the scores. A group like no other is a class by itself.

    Source:
        Fang, Ma, Mi, Wang 2024, "Isomorphic Pruning for Vision Models", section 3.3.
    """
    if normalise == "none":
        return dict(scores)
    if normalise == "layer":
        return {layer: _divide_by_mean(values) for layer, values in scores.items()}
    classes: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for group in groups:
        classes.setdefault(_structure(network, group), []).append(group.layer)
    scaled: dict[str, np.ndarray] = {}
    for layers in classes.values():
        ranks = _rank_fractions(np.concatenate([scores[layer] for layer in layers]))
        edges = np.cumsum([len(scores[layer]) for layer in layers])[:-1]
        scaled |= dict(zip(layers, np.split(ranks, edges), strict=True))
    return {layer: scaled[layer] for layer in scores}


def _divide_by_mean(values: np.ndarray) -> np.ndarray:
    mean = values.mean()
    return values / mean if mean > 0 else np.zeros_like(values)


def _rank_fractions(values: np.ndarray) -> np.ndarray:
    order = np.sort(values)
    below, not_above = np.searchsorted(order, values, "left"), np.searchsorted(order, values, "right")
    fractions: np.ndarray = (below + not_above) / (2 * len(values))
    return fractions


def _structure(network: nn.Module, group: ChannelGroup) -> tuple[tuple[str, str], ...]:
    return tuple((_kind(network.get_submodule(member.layer)), member.side) for member in group.members)


def _kind(module: nn.Module) -> str:
    if not isinstance(module, nn.Conv2d):
        return type(module).__name__
    # Not the class's name: one that pads at the edges in its own way is a convolution like the others.
    if module.groups == 1:
        return "Conv2d"
    return "depthwise" if module.groups == module.in_channels else "grouped"
