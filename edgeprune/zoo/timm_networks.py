"""timm's networks: which there are, how one is built, and the weights that timm publishes for it."""

import contextlib
import difflib
import importlib
import io
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.errors import EdgepruneError, InputError, MissingExtraError
from edgeprune.zoo.timm_layers import rename_to_plain_layers, use_plain_layers
from edgeprune.zoo.torchvision_import import torchvision_models

PREFIX = "timm/"


def is_timm_network(network: str) -> bool:
    """True for a name such as ``timm/mobilenetv3_small_050``, whether timm knows it or not."""
    return network.startswith(PREFIX)


def timm_offers(name: str) -> bool:
    """True when timm is installed here and has a network of this name (without the prefix)."""
    try:
        return name in _import_timm(name).list_models()
    except (ModuleNotFoundError, MissingExtraError):
        return False


def build_timm_network(network: str, *, num_classes: int, image_size: int) -> nn.Module:
    """Build one of timm's classifiers with fresh weights and torch's own layers.

    Args:
        network: with the prefix; nothing but a name of timm's own list is ever built, so that a name that would make
            timm fetch a stranger's network (``hf-hub:``, ``local-dir:``) is refused.
        num_classes: outputs of the head.
        image_size: pixels; networks with position embeddings are built for it.

    Raises:
        MissingExtraError: timm is not installed.
        InputError: timm has no such network, or it cannot be built with these numbers.
    """
    name = network.removeprefix(PREFIX)
    timm = _import_timm(name)
    _require_known(timm, network)
    try:
        built = _create(timm, name, num_classes=num_classes, **_image_size(timm, name, image_size))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"model.network = {network!r} cannot be built for {num_classes} classes at {image_size} x {image_size} "
            f"pixels: {reason}.",
            "another data.image_size, or another network",
        ) from None
    return use_plain_layers(built, timm.layers)


def timm_head(network: str) -> tuple[str, ...]:
    """Names of the layers that answer the classes."""
    heads = _import_timm(network).get_pretrained_cfg(network.removeprefix(PREFIX)).classifier
    return (heads,) if isinstance(heads, str) else tuple(heads or ())


def fetch_timm_weights(network: str, weights: str, *, image_size: int) -> tuple[dict[str, Tensor], str]:
    """Weights that timm publishes, by timm's own loader: names of old files, position embeddings and all.

    Args:
        network: with the prefix.
        weights: one of timm's tags (``lamb_in1k``), or ``DEFAULT`` for the first of them.
        image_size: pixels; position embeddings are resampled to it.

    Returns:
        The state dict under the names that ``build_timm_network`` gives, with the head of the published network; and
        one line for the card, with the licence where timm states one.

    Raises:
        InputError: no such tag.
        EdgepruneError: the download failed, or the file is not what its name says.
    """
    name = network.removeprefix(PREFIX)
    timm = _import_timm(name)
    _require_known(timm, network)
    tags = [tagged.partition(".")[2] for tagged in timm.list_models(name, pretrained=True)]
    tag = timm.get_pretrained_cfg(name).tag if weights == "DEFAULT" else weights
    if tag not in tags:
        raise InputError(
            f"model.weights = {weights!r} is not among timm's weights for {name}.",
            f"one of: {', '.join((*tags, 'none'))}; or the path of a .safetensors file",
        )
    tagged = f"{name}.{tag}"
    config = timm.get_pretrained_cfg(tagged)
    # timm compares a file with the hash in its name only when told to.
    timm.models.set_pretrained_check_hash(True)
    try:
        # Loaders announce downloads on standard output, which is the caller's; its fresh numbers are not ours to draw.
        with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng():
            source = _create(timm, tagged, pretrained=True, **_image_size(timm, tagged, image_size))
            state = use_plain_layers(source, timm.layers).state_dict()
    except Exception as error:
        # Whatever a server sends, a hub's client raises, or timm finds in the file.
        reason = next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
        where = f"huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        raise EdgepruneError(
            f"The weights {tag} of {network} could not be loaded from {where}: {reason}.",
            "connect to the internet once, or pass `--weights FILE.safetensors`, or `--weights none` (from scratch)",
        ) from None
    return dict(state), f"timm {tagged}" + (f" (license {config.license})" if config.license else "")


def rename_timm_weights(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A file with timm's names, under the names that ``build_timm_network`` gives."""
    return rename_to_plain_layers(state, network)


def _import_timm(name: str) -> ModuleType:
    torchvision_models()  # timm imports torchvision, which needs this first beside a CPU-only torch
    try:
        with warnings.catch_warnings():
            # Warnings of a stranger's package at import are not ours to turn into failures.
            warnings.simplefilter("ignore")
            return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise MissingExtraError(f"network: {PREFIX}{name.removeprefix(PREFIX)}", "timm", "timm") from None


def _require_known(timm: ModuleType, network: str) -> None:
    name, known = network.removeprefix(PREFIX), timm.list_models()
    if name in known:
        return
    base, _, tag = name.partition(".")
    if base in known:
        remedy = f"network: {PREFIX}{base}, and weights: {tag}"
    else:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        remedy = " or ".join(f"{PREFIX}{each}" for each in nearest) or f"{PREFIX}mobilenetv3_small_050"
    raise InputError(f"model.network = {network!r} is not one of timm's {len(known)} networks.", remedy)


def _image_size(timm: ModuleType, name: str, image_size: int) -> dict[str, int]:
    # Such a network has one position embedding a patch, and an argument for the size; others take any.
    return {"img_size": image_size} if timm.get_pretrained_cfg(name).fixed_input_size else {}


def _create(timm: ModuleType, name: str, **arguments: Any) -> nn.Module:
    with warnings.catch_warnings():
        # timm's own calls into torch's older interfaces.
        warnings.simplefilter("ignore", DeprecationWarning)
        network = timm.create_model(name, exportable=True, **arguments)
    assert isinstance(network, nn.Module)
    return network
