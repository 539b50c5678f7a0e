"""Checkpoints: architecture.json and model.safetensors, rebuilt from the factory and the channel counts.

Nothing is ever unpickled: a checkpoint from a stranger can at worst be refused.
"""

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from edgeprune import __version__
from edgeprune.errors import InputError
from edgeprune.files import digest_file, digest_json, write_atomic, write_json
from edgeprune.zoo.activations import use_early_relu
from edgeprune.zoo.architecture import ARCHITECTURE, Architecture, check_counts, read_architecture
from edgeprune.zoo.build import NetworkSpec, build_network
from edgeprune.zoo.channels import read_channels, resize_channels

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A network with what is needed to feed it and to read its answer.

    Attributes:
        network: in evaluation mode; stages copy it before they change anything.
        spec: the unpruned network that it was made from, with the activations that it has.
        classes: class names, in the order of the logits.
        mean, std: normalisation per channel, in units of [0, 1] pixels.
    """

    network: nn.Module
    spec: NetworkSpec
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint's two files, each whole or not at all, the weights first.

    Args:
        folder: made when it does not exist.
        checkpoint: its network may be pruned; channel counts that differ from the factory's are kept.
    """
    unpruned = read_channels(_build_without_weights(checkpoint.spec))
    current = read_channels(checkpoint.network)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.network.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(state))
    architecture = Architecture(
        format=1,
        edgeprune=__version__,
        network=checkpoint.spec.network,
        pad=checkpoint.spec.pad,
        relu=checkpoint.spec.relu,
        image_size=checkpoint.spec.image_size,
        classes=checkpoint.classes,
        mean=checkpoint.mean,
        std=checkpoint.std,
        channels={name: counts for name, counts in current.items() if counts != unpruned[name]},
    )
    write_json(folder / ARCHITECTURE, architecture.values())


def load_checkpoint(folder: Path, *, own_factory: str | None = None) -> Checkpoint:
    """Rebuild a network from its factory, its channel counts and its weights.

    Args:
        folder: holds architecture.json and model.safetensors.
        own_factory: the ``package.module:function`` that the recipe names. A checkpoint that names another one is
            refused: loading a file must not import code that nobody here asked for.

    Raises:
        InputError: a file is missing or damaged, channel counts are absurd, or the weights do not fit them.
    """
    architecture = read_architecture(folder)
    if ":" in architecture.network and architecture.network != own_factory:
        raise InputError(
            f"{folder / ARCHITECTURE} asks to import {architecture.network!r}, which the recipe does not name.",
            f"set `model: {{network: {architecture.network}}}` in the recipe if you trust that code",
        )
    spec = NetworkSpec(
        network=architecture.network,
        num_classes=len(architecture.classes),
        image_size=architecture.image_size,
        pad=architecture.pad,
        relu=architecture.relu,
    )
    network = _build_without_weights(spec)
    check_counts(folder, read_channels(network), architecture.channels)
    resize_channels(network, architecture.channels)
    # Updated and not replaced: torch keeps the modules' versions in an attribute of its own state dict.
    state = network.state_dict()
    state.update(_read_weights(folder, network))
    network.load_state_dict(state, assign=True)
    _fill_constants(network, spec)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return Checkpoint(
        network=network.eval(),
        spec=spec,
        classes=architecture.classes,
        mean=architecture.mean,
        std=architecture.std,
    )


def with_early_relu(checkpoint: Checkpoint, *, blocks: int) -> Checkpoint:
    """The same checkpoint with a ReLU for every hard-swish and SiLU in the first blocks; it has yet to recover from it.

    Args:
        checkpoint: left as it is; pruned or not, with early ReLUs already or without.
        blocks: how many blocks from the input; see ``edgeprune.zoo.list_blocks``.

    Raises:
        InputError: the network has fewer blocks, or the first ones have no hard-swish or SiLU.
    """
    network = copy.deepcopy(checkpoint.network)
    replaced = use_early_relu(network, blocks=blocks)
    known = checkpoint.spec.relu
    if not replaced and not known:
        raise InputError(
            f"activations.early = 'relu' changes nothing: the first {blocks} block(s) of {checkpoint.spec.network} "
            "have no hard-swish or SiLU.",
            "activations: {early: keep}, or more blocks",
        )
    spec = dataclasses.replace(checkpoint.spec, relu=(*known, *replaced))
    return dataclasses.replace(checkpoint, network=network, spec=spec)


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 of weights and architecture: checkpoints with equal digests are the same network, whoever wrote them.

    Raises:
        InputError: a file is missing, or architecture.json is damaged.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError(f"{folder} holds no checkpoint ({WEIGHTS} is missing).", "make train, or check the path")
    values = read_architecture(folder).values()
    del values["edgeprune"]
    return digest_json([digest_file(path), values])


def is_checkpoint(folder: Path, digest: str) -> bool:
    """True when a folder holds the checkpoint of that digest, undamaged."""
    try:
        return checkpoint_digest(folder) == digest
    except InputError:
        return False


def _build_without_weights(spec: NetworkSpec) -> nn.Module:
    # On the meta device nothing is drawn or allocated: the weights come from the file, and building an unpruned
    # network to read its channel counts costs milliseconds. A stranger's factory may keep buffers that no state dict
    # holds, so it is called for real, without moving the caller's random numbers on.
    if ":" not in spec.network:
        try:
            with torch.device("meta"):
                return build_network(spec)
        except NotImplementedError:
            pass  # RegNet computes its widths with tensors, which have no values there
    with torch.random.fork_rng():
        return build_network(spec)


def _fill_constants(network: nn.Module, spec: NetworkSpec) -> None:
    # Buffers that no state dict holds (the filter of a blur, positions of patches) are still on the meta device. They
    # come from building the network for real, which waits until the file has proved to hold weights of these shapes.
    missing = [name for name, buffer in network.named_buffers() if buffer.is_meta]
    if missing:
        with torch.random.fork_rng():
            buffers = dict(build_network(spec).named_buffers())
        for name in missing:
            holder, _, buffer = name.rpartition(".")
            setattr(network.get_submodule(holder), buffer, buffers[name])


def _read_weights(folder: Path, network: nn.Module) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", "make train, or check the path") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged: {error}.", "restore the file, or make the level again") from None
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != found:
        differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        name = differing[0]
        raise InputError(
            f"{path} does not fit {ARCHITECTURE}: {name} is {found.get(name)}, expected {expected.get(name)} "
            f"({len(differing)} tensors differ).",
            "restore both files from the same checkpoint",
        )
    for name, tensor in network.state_dict().items():
        if state[name].dtype != tensor.dtype:
            raise InputError(
                f"{path}: {name} holds {state[name].dtype}, expected {tensor.dtype}.",
                "restore the file; it is written by edgeprune",
            )
    # Copied out of the mapped file, where tensors begin at any byte: some kernels round otherwise at such addresses.
    return {name: tensor.clone() for name, tensor in state.items()}
