"""Attention transfer: a student's blocks shall look where its teacher's look, however many channels either has."""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.errors import InputError
from edgeprune.learning import watch_outputs


def attention_map(output: Tensor) -> Tensor:
    """Where a block looks: energy by place, of unit length.

    Args:
        output: shape (batch, channels, height, width).

    Returns:
        Shape (batch, height * width).
    """
    return functional.normalize(output.square().mean(dim=1).flatten(1), dim=1)


def attention_distance(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Squared distance of attention maps, averaged over the batch and over blocks.

    Args:
        student: block outputs by name, shape (batch, channels, height, width).
        teacher: attention maps of the same blocks, shape (batch, height * width).

    Returns:
        Scalar in [0, 2]; 0 when all agree.

    Source:
        Zagoruyko, Komodakis 2017, "Paying More Attention to Attention", section 3.1 (sum of squares over channels).
    """
    distances = [(attention_map(student[name]) - wanted).square().sum(dim=1).mean() for name, wanted in teacher.items()]
    return torch.stack(distances).mean()


def choose_blocks(
    student: nn.Module, teacher: nn.Module, *, image_size: int, names: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Modules whose attention is transferred: they are in both networks and give maps of the same size.

    Args:
        student, teacher: not changed.
        image_size: height and width of their input, pixels.
        names: the modules; when empty, the networks' blocks: modules at depth two (``features.4``, ``layer1.0``)
            that have modules inside, or all at depth two where none has. What gives no map, or one of a single
            place, which cannot look anywhere else, is left out.

    Raises:
        InputError: a name is in one of the networks only, gives no map or one of another size, or nothing is left.
    """
    ours = _output_shapes(student, names or _blocks_of(student), image_size)
    chosen = names or tuple(name for name, shape in ours.items() if len(shape) == 4 and math.prod(shape[2:]) > 1)
    if not chosen:
        raise InputError(
            "No block of the network gives a map, so there are no features to distil.",
            "feature_weight: 0, or name modules in feature_blocks",
        )
    theirs = _output_shapes(teacher, chosen, image_size)
    for name in chosen:
        if name not in ours or name not in theirs:
            raise InputError(
                f"Features of {name!r} cannot be distilled: no such module runs in the "
                f"{'teacher' if name in ours else 'network to recover'}.",
                "a teacher of the same network, feature_blocks that both have, or feature_weight: 0",
            )
        if len(ours[name]) != 4 or ours[name][2:] != theirs[name][2:]:
            raise InputError(
                f"Features of {name!r} cannot be distilled: it gives {_sizes(ours[name])} in the network to recover, "
                f"{_sizes(theirs[name])} in the teacher; height and width must be equal.",
                "a teacher of the same network, other feature_blocks, or feature_weight: 0",
            )
    return chosen


def _blocks_of(network: nn.Module) -> tuple[str, ...]:
    second = [(name, module) for name, module in network.named_modules() if name.count(".") == 1]
    composed = [name for name, module in second if any(True for _ in module.children())]
    return tuple(composed or [name for name, _ in second])


def _output_shapes(network: nn.Module, names: tuple[str, ...], image_size: int) -> dict[str, torch.Size]:
    """Shapes of outputs by name, in the order of ``names``; of the modules that are there, run, and give a tensor."""
    network = copy.deepcopy(network).eval()
    there = dict(network.named_modules())
    with watch_outputs(network, [name for name in names if name in there]) as outputs, torch.inference_mode():
        network(torch.zeros(1, 3, image_size, image_size))
    return {name: outputs[name].shape for name in names if isinstance(outputs.get(name), Tensor)}


def _sizes(shape: torch.Size) -> str:
    """Everything but the batch, as people write it."""
    return " x ".join(map(str, shape[1:])) or "one number"
