"""What training the baseline and recovering a pruned network have in common: a seeded loop and what it can be told.

    loop.py      ``fit_network``: epochs, validation, the epoch that is kept
    rates.py     learning rates over progress
    averaging.py weights averaged over steps, judged and kept in place of the last ones
    mixup.py     batches of mixed images
    watching.py  what modules inside a network gave in its last forward pass

Everything that draws random numbers takes the seed, so that a level made again is the same level.
"""

from edgeprune.learning.loop import Augment, EpochRecord, Fit, FitSettings, Loss, Step, fit_network
from edgeprune.learning.rates import choose_rate, warm_up_then_cosine
from edgeprune.learning.watching import watch_outputs

__all__ = [
    "Augment",
    "EpochRecord",
    "Fit",
    "FitSettings",
    "Loss",
    "Step",
    "choose_rate",
    "fit_network",
    "warm_up_then_cosine",
    "watch_outputs",
]
