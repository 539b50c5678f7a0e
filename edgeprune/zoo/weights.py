"""Initial weights: torchvision's own, timm's own, a safetensors state dict, a folder of ours, or none."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.files import digest_file
from edgeprune.zoo.build import NetworkSpec
from edgeprune.zoo.checkpoint import WEIGHTS
from edgeprune.zoo.timm_networks import fetch_timm_weights, is_timm_network, rename_timm_weights, timm_head
from edgeprune.zoo.torchvision_import import torchvision_models


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialWeights:
    """What a network started from, for its card.

    Attributes:
        description: one line for a person.
        batchnorm_folded: every BatchNorm came with mean 0 and variance 1, so its real statistics were folded into
            scale and shift and must be measured before training.
    """

    description: str
    batchnorm_folded: bool


def load_initial_weights(network: nn.Module, *, spec: NetworkSpec, weights: str) -> InitialWeights:
    """Fill a freshly built network with the weights that a recipe names.

    The last linear layer is left fresh when the file has another number of classes; everything else must fit.

    Args:
        network: changed in place.
        spec: what the network was built from.
        weights: ``none``; a name such as ``IMAGENET1K_V1``, or ``lamb_in1k`` for a network of timm's (downloaded by
            torchvision or timm into its own cache; ``DEFAULT`` is the one it recommends); the path of a
            ``.safetensors`` file, with timm's names for a network of timm's; or a folder of ours.

    Raises:
        InputError: an unknown name, a missing or damaged file, or tensors that do not fit the network.
        EdgepruneError: the download failed.
    """
    if weights == "none":
        return InitialWeights(description="none: trained from scratch", batchnorm_folded=False)
    path = Path(weights)
    if path.suffix == ".safetensors" or path.is_dir() or "/" in weights:
        file = path / WEIGHTS if path.is_dir() else path
        state = _read_safetensors(file)
        description = f"{file.name} (sha256 {digest_file(file)[:16]})"
    elif is_timm_network(spec.network):
        state, description = fetch_timm_weights(spec.network, weights, image_size=spec.image_size)
    else:
        state, description = _fetch_from_torchvision(spec.network, weights), f"torchvision {spec.network} {weights}"
    if is_timm_network(spec.network):
        state = rename_timm_weights(state, network)
        heads = timm_head(spec.network)
    else:
        heads = tuple([name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1:])
    fresh = _fit(network, state, heads=heads, origin=weights)
    if fresh:
        description += f"; fresh head {fresh}"
    means = [tensor for name, tensor in state.items() if name.endswith("running_mean")]
    variances = [tensor for name, tensor in state.items() if name.endswith("running_var")]
    folded = bool(means) and all(not mean.any() for mean in means) and all((var == 1).all() for var in variances)
    return InitialWeights(description=description, batchnorm_folded=folded)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(
            f"model.weights = {str(path)!r} does not exist.", "the path of a .safetensors file, or weights: none"
        ) from None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"model.weights = {str(path)!r} is damaged: {error}.", "fetch the file again, or weights: none"
        ) from None


def _fetch_from_torchvision(network: str, name: str) -> dict[str, Tensor]:
    models = torchvision_models()
    if ":" in network:
        raise InputError(
            f"model.weights = {name!r} is torchvision's, but model.network = {network!r} is not.",
            "weights: none, or the path of a .safetensors file",
        )
    available = models.get_model_weights(network)
    if name not in available.__members__:
        raise InputError(
            f"model.weights = {name!r} is not among torchvision's weights for {network}.",
            f"one of: {', '.join(available.__members__)}; none; or the path of a .safetensors file",
        )
    entry: Any = available[name]
    try:
        # It announces the download on standard output, which is the caller's.
        with contextlib.redirect_stdout(io.StringIO()):
            # torchvision's own loader, told to refuse anything but tensors; check_hash compares with the file's name.
            state: dict[str, Tensor] = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:
        # Whatever a server sends: the refusal to unpickle code is an exception of its own kind, in many lines.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise EdgepruneError(
            f"The weights {name} of {network} could not be downloaded from {entry.url}: {reason}.",
            "connect to the internet once, or pass `--weights FILE.safetensors`, or `--weights none` (from scratch)",
        ) from None
    return state


def _fit(network: nn.Module, state: dict[str, Tensor], *, heads: tuple[str, ...], origin: str) -> str:
    """Load a state dict; returns the names of the heads that stayed fresh, or an empty string."""
    own = network.state_dict()
    # Files written by other tools leave out BatchNorm's batch counter, which nothing here reads.
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    expected = {name for name in own if not name.endswith("num_batches_tracked")}
    head_tensors = {f"{head}.{tensor}" for head in heads for tensor in ("weight", "bias")}
    fresh = any(name not in state or state[name].shape != own[name].shape for name in head_tensors & expected)
    if fresh:
        state = {name: tensor for name, tensor in state.items() if name not in head_tensors}
        expected -= head_tensors
    fitting = {name for name in state if name in own and state[name].shape == own[name].shape}
    differing = sorted((expected | set(state)) - fitting)
    if differing:
        name = differing[0]
        found = tuple(state[name].shape) if name in state else "missing"
        wanted = tuple(own[name].shape) if name in own else "nothing of that name"
        raise InputError(
            f"model.weights = {origin!r} does not fit: {name} is {found}, the network has {wanted} "
            f"({len(differing)} tensors differ).",
            "weights made for this network, or weights: none",
        )
    # Updated and not replaced: torch keeps the modules' versions in an attribute of its own state dict.
    own.update(state)
    network.load_state_dict(own)
    return ", ".join(heads) if fresh else ""
