"""timm's own layers as torch's: what prunes, folds, traces and exports a network knows those.

timm computes BatchNorm and the activation after it in one module that *is* a BatchNorm, so whoever folds or observes a
BatchNorm would lose the activation. Taken apart, the numbers stay the same, and only names change: ``bn1.weight``
becomes ``bn1.norm.weight``.
"""

from types import ModuleType

from torch import Tensor, nn


def use_plain_layers(network: nn.Module, layers: ModuleType) -> nn.Module:
    """Replace every BatchNorm with an activation inside by the two of them; timm's linear layer and sigmoid by torch's.

    Args:
        network: changed in place; it is freshly built and nobody else holds it.
        layers: the module ``timm.layers``.

    Returns:
        The network.
    """
    plain: dict[nn.Module, nn.Module] = {}
    # With duplicates: a layer that has several names gets the same replacement under each.
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if type(module) is layers.BatchNormAct2d:
            if module not in plain:
                plain[module] = _take_apart(module)
            network.set_submodule(name, plain[module])
        elif type(module) is layers.Linear:
            if module not in plain:
                # On the meta device nothing is drawn; it takes the very tensors over.
                linear = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
                linear.load_state_dict(module.state_dict(), assign=True)
                plain[module] = linear
            network.set_submodule(name, plain[module])
        elif type(module) is layers.Sigmoid:
            network.set_submodule(name, nn.Sigmoid())
    return network


def rename_to_plain_layers(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A state dict of timm's under the names that the network has; one that has them already stays as it is."""
    own = network.state_dict()
    renamed = {}
    for name, tensor in state.items():
        layer, _, tensor_name = name.rpartition(".")
        inside = f"{layer}.norm.{tensor_name}"
        renamed[inside if name not in own and inside in own else name] = tensor
    return renamed


def _take_apart(module: nn.BatchNorm2d) -> nn.Module:
    norm = nn.BatchNorm2d(
        module.num_features,
        eps=module.eps,
        momentum=module.momentum,
        affine=module.affine,
        track_running_stats=module.track_running_stats,
    )
    norm.load_state_dict({name: tensor for name, tensor in module.state_dict().items() if "." not in name})
    after = {name: child for name, child in module.named_children() if not isinstance(child, nn.Identity)}
    if not after:
        return norm
    parts = nn.Sequential()
    for name, part in {"norm": norm, **after}.items():
        parts.add_module(name, part)
    return parts
