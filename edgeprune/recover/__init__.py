"""Recovery of a pruned network: fine-tuning on the labels and on what a teacher makes of the same images.

fit.py       ``recover_accuracy``: the loss put together and minimised
losses.py    the teacher's soft outputs and the labels, as one loss
attention.py where the blocks of student and teacher look
answers.py   a teacher's outputs, remembered by image and orientation
"""

from edgeprune.recover.fit import Distillation, learning_rate_for, recover_accuracy

__all__ = ["Distillation", "learning_rate_for", "recover_accuracy"]
