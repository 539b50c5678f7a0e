"""BatchNorm folded into the layer before it, as converters do it; done here so that int8 remedies see its result."""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edgeprune.quantise.graph import trace_network


def fold_batchnorm(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode that computes the same without BatchNorm wherever a layer feeds only that BatchNorm.

    Raises:
        EdgepruneError: the network cannot be traced.
    """
    folded = copy.deepcopy(network).cpu().eval()
    modules = dict(folded.named_modules())
    for node in trace_network(folded).nodes:
        if node.op != "call_module" or not node.all_input_nodes:
            continue
        norm, before = modules[node.target], node.all_input_nodes[0]
        if not isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d) or before.op != "call_module" or len(before.users) > 1:
            continue
        layer = modules[before.target]
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            fused: nn.Module = fuse_conv_bn_eval(layer, norm)
        elif isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            fused = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        folded.set_submodule(before.target, fused)
        folded.set_submodule(node.target, nn.Identity())
        modules[before.target] = fused
    return folded
