"""What is minimised: the labels' cross entropy, and a teacher's softened outputs."""

from torch import Tensor
from torch.nn import functional


def labels_loss(
    student: Tensor, labels: Tensor, *, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross entropy with the labels, averaged over the batch.

    Args:
        student: logits, shape (n, classes).
        labels: class indices, shape (n,), or weighted shares of the classes, shape (n, classes); a row of zeros, an
            image without a label, adds nothing.
        class_weights: shape (classes,), or None.
        label_smoothing: share of a label that is spread over all classes.

    Returns:
        Scalar, in nats.
    """
    if labels.ndim > 1 and label_smoothing:
        # Not left to cross_entropy, which would spread labels that are not there.
        spread = labels.sum(dim=1, keepdim=True) / labels.shape[1]
        labels, label_smoothing = labels.lerp(spread.expand_as(labels), label_smoothing), 0.0
    return functional.cross_entropy(student, labels, weight=class_weights, label_smoothing=label_smoothing)


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, temperature: float, label_smoothing: float = 0.0
) -> Tensor:
    """Weighted sum of the soft-target loss and the cross entropy with the labels.

    What the labels of an image lack of a whole weight goes to the teacher: an image without a label learns from the
    teacher alone.

    Args:
        student, teacher: logits, shape (batch, classes).
        labels: class indices, shape (batch,), or weighted shares of the classes, shape (batch, classes).
        alpha: weight of the soft term in [0, 1], for an image whose label weighs 1.
        temperature: > 0.
        label_smoothing: share of the labels' term that is spread over all classes; the teacher's outputs stay as
            they are.

    Returns:
        Scalar, in nats.
    """
    hard = labels_loss(student, labels, label_smoothing=label_smoothing)
    # Soft gradients shrink as 1 / temperature**2; scale back so that changing the temperature does not also change
    # the balance against the labels.
    if labels.ndim > 1:
        weights = 1 - (1 - alpha) * labels.sum(dim=1).clamp(max=1)
        soft = (weights * _divergence(student, teacher, temperature, reduction="none").sum(dim=1)).mean()
        return soft * temperature**2 + (1 - alpha) * hard
    return alpha * (soft_target_loss(student, teacher, temperature) * temperature**2) + (1 - alpha) * hard


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
    return _divergence(student, teacher, temperature, reduction="batchmean")


def _divergence(student: Tensor, teacher: Tensor, temperature: float, *, reduction: str) -> Tensor:
    return functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher.detach() / temperature, dim=1),
        reduction=reduction,
        log_target=True,
    )
