"""What training the baseline and recovering a pruned network have in common: a seeded loop and what it can be told.

    terms.py     what a fit is told, and what it tells
    loop.py      ``fit_network``: epochs, validation, the epoch that is kept
    trainer.py   the steps of an epoch
    unfinished.py
                 how far a fit has come, on disk
    rates.py     learning rates over progress
    averaging.py weights averaged over steps, judged and kept in place of the last ones
    losses.py    labels and a teacher's answers
    mixing.py    images put together from two
    targets.py   labels with weights, soft ones and none; how often an image is drawn
    watching.py  what modules inside a network gave in its last forward pass

Everything that draws random numbers takes the seed, so that a level made again is the same level.
"""

from edgeprune.learning.loop import fit_network
from edgeprune.learning.losses import distillation_loss, labels_loss
from edgeprune.learning.rates import choose_rate, warm_up_then_cosine
from edgeprune.learning.terms import Augment, EpochRecord, Fit, FitSettings, Loss, Step
from edgeprune.learning.unfinished import Unfinished
from edgeprune.learning.watching import watch_outputs

__all__ = [
    "Augment",
    "EpochRecord",
    "Fit",
    "FitSettings",
    "Loss",
    "Step",
    "Unfinished",
    "choose_rate",
    "distillation_loss",
    "fit_network",
    "labels_loss",
    "warm_up_then_cosine",
    "watch_outputs",
]
