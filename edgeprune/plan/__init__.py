"""Which channels go: find the groups, rank their channels, choose whole blocks under a target.

- ``find_groups`` takes the census of a network: the prunable channel groups of its dependency graph.
- ``score_channels`` gives every channel an importance.
- ``choose_channels`` turns scores and a target into a ``ChannelPlan``.
"""

from edgeprune.plan.allocate import choose_channels
from edgeprune.plan.groups import find_groups
from edgeprune.plan.importance import score_channels

__all__ = ["choose_channels", "find_groups", "score_channels"]
