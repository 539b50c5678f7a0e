"""Distillation: the labels, and a teacher's softened outputs."""

from torch import Tensor
from torch.nn import functional


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, temperature: float, label_smoothing: float = 0.0
) -> Tensor:
    """Weighted sum of the soft-target loss and the cross entropy with the labels.

    Args:
        student, teacher: logits, shape (batch, classes).
        labels: class indices, shape (batch,), or shares of the classes, shape (batch, classes).
        alpha: weight of the soft term in [0, 1].
        temperature: > 0.
        label_smoothing: share of the labels' term that is spread over all classes; the teacher's outputs stay as
            they are.

    Returns:
        Scalar, in nats.
    """
    hard = functional.cross_entropy(student, labels, label_smoothing=label_smoothing)
    # Soft gradients shrink as 1 / temperature**2; scale back so that changing the temperature does not also change
    # the balance against the labels.
    soft = soft_target_loss(student, teacher, temperature) * temperature**2
    return alpha * soft + (1 - alpha) * hard


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened class distributions, averaged over the batch.

    Args:
        student, teacher: logits, shape (batch, classes). No gradient reaches the teacher.
        temperature: > 0; 1 leaves the distributions as they are.

    Returns:
        Scalar, in nats; 0 when both agree.

    Source:
        Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.
    """
    return functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher.detach() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
