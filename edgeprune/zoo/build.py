"""A network from its name: torchvision's classifiers, timm's, or a function of yours."""

import difflib
import importlib
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from edgeprune.errors import InputError
from edgeprune.zoo.activations import use_relu
from edgeprune.zoo.same_padding import use_same_padding
from edgeprune.zoo.timm_networks import PREFIX, build_timm_network, is_timm_network, timm_offers
from edgeprune.zoo.torchvision_import import torchvision_models

# Their auxiliary heads exist for ImageNet training only; without these arguments they return tuples in training mode.
_WITHOUT_AUXILIARY_HEADS = {"googlenet", "inception_v3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """What it takes to build an unpruned network.

    Attributes:
        network: a torchvision classifier (``mobilenet_v3_small``), one of timm's (``timm/mobilenetv4_conv_small``), or
            ``package.module:function`` for your own: the function is called with ``num_classes=`` and returns a module
            from (n, 3, size, size) to (n, classes).
        num_classes: outputs of the head.
        image_size: height and width of the input, pixels.
        pad: ``torch``, or ``same`` for TensorFlow's padding at strides above 1.
        relu: names of the hard-swishes and SiLUs that are a ReLU instead.
    """

    network: str
    num_classes: int
    image_size: int
    pad: Literal["torch", "same"] = "torch"
    relu: tuple[str, ...] = ()


def build_network(spec: NetworkSpec) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global generator, in evaluation mode.

    Raises:
        InputError: no such classifier, the function cannot be imported or returns no module, ``pad`` cannot be had, or
            ``relu`` names something else.
        MissingExtraError: the network is timm's, which is not installed.
    """
    if is_timm_network(spec.network):
        network = build_timm_network(spec.network, num_classes=spec.num_classes, image_size=spec.image_size)
    elif ":" in spec.network:
        network = _call_factory(spec)
    else:
        network = _torchvision_classifier(spec)
    use_relu(network, spec.relu)
    if spec.pad == "same":
        network = use_same_padding(network)
    return network.eval()


def check_network(network: nn.Module, spec: NetworkSpec) -> None:
    """Run a network once, before hours are spent on it.

    Raises:
        InputError: it does not take images of this size, or does not answer one value a class.
    """
    try:
        with torch.no_grad():
            answer = network(torch.zeros(1, 3, spec.image_size, spec.image_size))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"model.network = {spec.network!r} does not run at {spec.image_size} x {spec.image_size} pixels: {reason}.",
            "another data.image_size, or another network",
        ) from None
    shape = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
    if shape != (1, spec.num_classes):
        raise InputError(
            f"model.network = {spec.network!r} answers {shape} for one image, expected (1, {spec.num_classes}).",
            "a network that returns one logit a class",
        )


def _torchvision_classifier(spec: NetworkSpec) -> nn.Module:
    models = torchvision_models()
    # `module=` leaves out detection, segmentation, video and quantised networks.
    known = models.list_models(module=models)
    if spec.network not in known:
        nearest = difflib.get_close_matches(spec.network, known, n=3, cutoff=0.3)
        if timm_offers(spec.network):
            nearest.insert(0, PREFIX + spec.network)
        raise InputError(
            f"model.network = {spec.network!r} is not one of torchvision's {len(known)} classifiers.",
            f"{' or '.join(nearest)}" if nearest else "mobilenet_v3_small, or package.module:function",
        )
    extra: dict[str, object] = {}
    if spec.network in _WITHOUT_AUXILIARY_HEADS:
        extra = {"aux_logits": False, "init_weights": True}
    elif spec.network.startswith("vit_"):
        extra = {"image_size": spec.image_size}  # its position embedding has one entry a patch
    network = models.get_model(spec.network, weights=None, num_classes=spec.num_classes, **extra)
    assert isinstance(network, nn.Module)
    return network


def _call_factory(spec: NetworkSpec) -> nn.Module:
    module_name, _, function_name = spec.network.partition(":")
    try:
        with warnings.catch_warnings():
            # Warnings of a stranger's package at import are not ours to turn into failures.
            warnings.simplefilter("ignore")
            factory = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: an empty module name
        raise InputError(
            f"model.network = {spec.network!r} cannot be imported: {error}.",
            "check that `python -c 'import " + module_name + "'` works here and that the function is in it",
        ) from None
    try:
        network = factory(num_classes=spec.num_classes)
    except TypeError as error:
        raise InputError(
            f"model.network = {spec.network!r} cannot be called with num_classes={spec.num_classes}: {error}.",
            "a function that takes num_classes as a keyword",
        ) from None
    if not isinstance(network, nn.Module):
        raise InputError(
            f"model.network = {spec.network!r} returned {type(network).__name__}, not a torch.nn.Module.",
            "return the network itself from the function",
        )
    return network
