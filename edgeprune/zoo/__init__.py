"""Networks: built by name, given initial weights, saved and loaded without unpickling.

- ``build_network`` makes the unpruned network that a ``NetworkSpec`` names.
- ``load_initial_weights`` fills it before training.
- ``save_checkpoint`` and ``load_checkpoint`` keep it, pruned or not, as architecture.json and model.safetensors.
- ``with_early_relu`` gives a checkpoint cheaper activations where memory peaks; ``use_early_relu`` a network.
- ``resize_channels`` gives modules other channel counts; ``read_channels`` reads them.
- ``cut_channels`` gives a copy without some channels, by index; ``cut_in_place`` takes them from the network itself.
- ``torchvision_models`` imports torchvision beside a CPU-only torch.
"""

from edgeprune.zoo.activations import list_blocks, use_early_relu
from edgeprune.zoo.build import NetworkSpec, build_network, check_network
from edgeprune.zoo.channels import Channels, read_channels, resize_channels
from edgeprune.zoo.checkpoint import (
    Checkpoint,
    checkpoint_digest,
    is_checkpoint,
    load_checkpoint,
    save_checkpoint,
    with_early_relu,
)
from edgeprune.zoo.cutting import copy_structure, cut_channels, cut_in_place
from edgeprune.zoo.same_padding import SameConv2d
from edgeprune.zoo.torchvision_import import torchvision_models
from edgeprune.zoo.weights import InitialWeights, load_initial_weights

__all__ = [
    "Channels",
    "Checkpoint",
    "InitialWeights",
    "NetworkSpec",
    "SameConv2d",
    "build_network",
    "check_network",
    "checkpoint_digest",
    "copy_structure",
    "cut_channels",
    "cut_in_place",
    "is_checkpoint",
    "list_blocks",
    "load_checkpoint",
    "load_initial_weights",
    "read_channels",
    "resize_channels",
    "save_checkpoint",
    "torchvision_models",
    "use_early_relu",
    "with_early_relu",
]
