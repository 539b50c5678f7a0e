"""Recovery: the loss is Hinton's, and every value of the recipe's section reaches the code that uses it."""

import copy
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeprune.data import Dataset
from edgeprune.learning import Fit
from edgeprune.recipe import RecoverSection
from edgeprune.recover import distillation_loss, learning_rate_for, recover_accuracy, soft_target_loss

GREY = (0.5, 0.5, 0.5)
# Two epochs of small batches: enough that every value leaves its mark.
VALUES: dict[str, Any] = {
    "alpha": 0.5, "temperature": 4.0, "epochs": 2, "patience": 2, "lr": 0.01, "batch_size": 16, "weight_decay": 0.01,
    "bn_momentum": 0.1, "augment": None, "seed": 0,
}  # fmt: skip

Recover = Callable[..., Fit]


def random_logits(classes: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(6, classes, generator=generator, dtype=torch.double, requires_grad=True)
    teacher = torch.randn(6, classes, generator=generator, dtype=torch.double, requires_grad=True)
    return student, teacher, torch.randint(classes, (6,), generator=generator)


def test_alpha_zero_is_cross_entropy() -> None:
    student, teacher, labels = random_logits()
    loss = distillation_loss(student, teacher, labels, alpha=0.0, temperature=4.0)
    torch.testing.assert_close(loss, functional.cross_entropy(student, labels))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_alpha_one_is_the_softened_divergence_times_the_squared_temperature(temperature: float) -> None:
    """Written out: T^2 times the sum of p log(p / q), averaged over the batch and not over the classes."""
    student, teacher, labels = random_logits()
    loss = distillation_loss(student, teacher, labels, alpha=1.0, temperature=temperature)
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    expected = temperature**2 * (p * (p / q).log()).sum(dim=1).mean()
    torch.testing.assert_close(loss, expected)


def test_alpha_mixes_the_two_terms() -> None:
    student, teacher, labels = random_logits()
    ends = [distillation_loss(student, teacher, labels, alpha=alpha, temperature=3.0) for alpha in (0.0, 1.0)]
    loss = distillation_loss(student, teacher, labels, alpha=0.3, temperature=3.0)
    torch.testing.assert_close(loss, 0.7 * ends[0] + 0.3 * ends[1])


def test_the_squared_temperature_keeps_soft_gradients_the_same_size() -> None:
    """Without it, T=16 would weigh the teacher a hundredth of what it weighs at T=1.6."""
    student, teacher, labels = random_logits()
    norms = []
    for temperature in (8.0, 64.0):
        loss = distillation_loss(student, teacher, labels, alpha=1.0, temperature=temperature)
        norms.append(torch.autograd.grad(loss, student)[0].norm())
    assert norms[1] == pytest.approx(norms[0].item(), rel=0.2)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher, labels = random_logits()
    distillation_loss(student, teacher, labels, alpha=0.5, temperature=2.0).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_the_soft_loss_is_zero_exactly_when_both_agree() -> None:
    student, teacher, _ = random_logits()
    assert soft_target_loss(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-12)
    # A constant added to all logits changes no distribution.
    assert soft_target_loss(teacher + 5, teacher, 3.0).item() == pytest.approx(0, abs=1e-12)
    assert soft_target_loss(student, teacher, 3.0).item() > 0.01


def test_the_higher_learning_rate_belongs_to_the_threshold_and_above() -> None:
    rates = [learning_rate_for(t, lr=1.0, lr_high=2.0, lr_high_threshold=0.25) for t in (0.2, 0.2499, 0.25, 0.6)]
    assert rates == [1.0, 1.0, 2.0, 2.0]


@pytest.fixture
def recover(dataset: Dataset, tiny_network: Callable[..., nn.Module]) -> Recover:
    """Recovery of a tiny network from another one, with some of ``VALUES`` changed."""

    def run(**changed: Any) -> Fit:
        arguments = {
            "teacher": tiny_network(seed=9),
            "dataset": dataset,
            "mean": GREY,
            "std": GREY,
            **VALUES,
            **changed,
        }
        return recover_accuracy(tiny_network(seed=1), **arguments)

    return run


def weights_of(fit: Fit) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in fit.network.state_dict().values()])


def story_of(fit: Fit) -> list[tuple[float, ...]]:
    return [dataclasses.astuple(dataclasses.replace(record, seconds=0.0)) for record in fit.epochs]


def test_equal_values_give_equal_weights_and_equal_records(recover: Recover) -> None:
    """The ground on which the next test stands."""
    one, two = recover(), recover()
    assert torch.equal(weights_of(one), weights_of(two))
    assert story_of(one) == story_of(two)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 0.9),
        ("temperature", 1.0),
        ("epochs", 1),
        ("lr", 0.002),
        ("batch_size", 32),
        ("weight_decay", 0.5),
        ("bn_momentum", 0.9),
        ("seed", 1),
        ("augment", lambda images, generator: images.flip(3) * torch.rand(1, generator=generator)),
    ],
)
def test_each_value_reaches_the_code_that_uses_it(recover: Recover, name: str, value: object) -> None:
    """The seed log: "alpha and temp were not retrieved correctly". One value changed, another story told."""
    assert VALUES[name] != value
    assert story_of(recover(**{name: value})) != story_of(recover())


def test_patience_reaches_the_loop(recover: Recover) -> None:
    """At a learning rate of next to nothing no epoch is better than the first."""
    still = {"lr": 1e-12, "bn_momentum": 1e-6, "epochs": 3}
    assert [len(recover(**still, patience=patience).epochs) for patience in (1, 2, 3)] == [2, 3, 3]


def test_no_value_of_the_recipes_section_is_without_a_parameter() -> None:
    """A value added to the recipe must be added here and to the test above, or nobody knows whether it arrives."""
    parameters = set(inspect.signature(recover_accuracy).parameters) | set(
        inspect.signature(learning_rate_for).parameters
    )
    assert set(RecoverSection.model_fields) <= parameters
    tested = {"alpha", "temperature", "epochs", "patience", "lr", "batch_size", "weight_decay"}
    assert set(RecoverSection.model_fields) - tested == {"teacher", "lr_high", "lr_high_threshold"}


def test_the_learning_rate_is_constant(recover: Recover) -> None:
    assert {record.lr for record in recover(lr=0.003, epochs=3, patience=3).epochs} == {0.003}


def test_another_teacher_gives_another_student(recover: Recover, tiny_network: Callable[..., nn.Module]) -> None:
    assert story_of(recover(teacher=tiny_network(seed=10))) != story_of(recover())
    # Without a soft term the teacher must not matter.
    alone = [recover(alpha=0.0, teacher=tiny_network(seed=seed)) for seed in (9, 10)]
    assert torch.equal(weights_of(alone[0]), weights_of(alone[1]))


def test_the_teacher_is_left_alone(recover: Recover, tiny_network: Callable[..., nn.Module]) -> None:
    """It is the baseline that later levels are measured against."""
    teacher = tiny_network(seed=9).train()
    before = copy.deepcopy(teacher.state_dict())
    fit = recover(teacher=teacher)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert torch.equal(weights_of(fit), weights_of(recover()))
    assert teacher.training


def test_the_teacher_teaches_in_evaluation_mode_without_gradients(recover: Recover) -> None:
    """Dropout would make it a worse one, and batch statistics would drift with every batch."""
    seen = set()

    class Probe(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.add((self.training, torch.is_grad_enabled()))
            return x.mean(dim=(2, 3))[:, :2]

    recover(teacher=Probe().train(), epochs=1)
    assert seen == {(False, False)}


def test_a_student_learns_what_its_teacher_knows_without_any_label(
    dataset: Dataset, tiny_network: Callable[..., nn.Module], recover: Recover
) -> None:
    """alpha = 1 never looks at the labels, so all it can learn comes from the teacher."""
    teacher = recover(alpha=0.0, lr=0.02, epochs=6, patience=6).network
    labels = dataset.train.labels
    mislabelled = dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, labels=1 - labels))
    fit = recover(teacher=teacher, dataset=mislabelled, alpha=1.0, lr=0.02, epochs=6, patience=6)
    assert fit.epochs[fit.best_epoch - 1].val_accuracy > 0.75
