"""Evaluation, recalibration and the training loop: exact figures, the best epoch, and the same weights every time."""

import copy
import dataclasses
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, log_loss, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.batchnorm import recalibrate_batchnorm, restore_folded_batchnorm
from edgeprune.data import Dataset, PackedSplit, iterate_batches, run_ahead
from edgeprune.evaluation import evaluate_logits, evaluate_network, predict_logits
from edgeprune.learning import Fit, FitSettings, Step, choose_rate, fit_network, warm_up_then_cosine, watch_outputs
from edgeprune.learning.averaging import WeightAverage
from edgeprune.learning.mixing import mix_images, paste_images
from edgeprune.preprocess import normalise_pixels
from edgeprune.train import inverse_frequencies, train_baseline

GREY = (0.5, 0.5, 0.5)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)

MakeNetwork = Callable[..., nn.Module]
MakeSplit = Callable[..., PackedSplit]


def cross_entropy(step: Step) -> Tensor:
    return functional.cross_entropy(step.logits, step.labels)


def same_state(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return list(states[0]) == list(states[1]) and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


# ------------------------------------------------------------------------------------------------ evaluation


@pytest.mark.parametrize("classes", [2, 3])
def test_every_figure_agrees_with_scikit_learn(make_split: MakeSplit, classes: int) -> None:
    split = make_split(50, classes=classes, name="val", size=2)
    logits = np.random.default_rng(0).normal(size=(50, classes)).astype(np.float32)
    logits[np.arange(50), split.labels] += 0.7
    result = evaluate_logits(logits, split, seconds=1.5)
    predicted, probabilities = logits.argmax(1), torch.from_numpy(logits).double().softmax(1).numpy()
    auc = (
        roc_auc_score(split.labels, probabilities[:, 1])
        if classes == 2
        else roc_auc_score(split.labels, probabilities, multi_class="ovr", average="macro")
    )
    assert result.split == "val"
    assert result.seconds == 1.5
    assert result.accuracy.value == (predicted == split.labels).mean()
    assert result.confusion == tuple(map(tuple, confusion_matrix(split.labels, predicted).tolist()))
    assert result.roc_auc == pytest.approx(auc)
    assert result.loss == pytest.approx(log_loss(split.labels, probabilities))
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(split.labels, predicted))
    assert result.macro_f1 == pytest.approx(f1_score(split.labels, predicted, average="macro"))


def test_rows_of_the_confusion_are_true_classes(make_split: MakeSplit) -> None:
    """A network that always says "1" fills column 1."""
    split = make_split(10, size=2)
    logits = np.tile(np.float32([0, 1]), (10, 1))
    assert evaluate_logits(logits, split, seconds=0).confusion == ((0, 5), (0, 5))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_network_that_diverged_is_bad_and_no_exception(make_split: MakeSplit, bad: float) -> None:
    """A run that diverges must stop below its threshold and keep what it has, not die inside a metric."""
    split = make_split(10, size=2)
    logits = np.zeros((10, 2), np.float32)
    logits[3] = bad
    result = evaluate_logits(logits, split, seconds=0)
    assert result.roc_auc == 0.5
    assert math.isfinite(result.loss)
    assert result.loss > 100
    assert result.accuracy.n == 10


def test_logits_that_are_all_nan_are_all_wrong(make_split: MakeSplit) -> None:
    """argmax of NaN names class 0: a diverged epoch would score the share of that class, and could be kept as best."""
    result = evaluate_logits(np.full((10, 2), np.nan, np.float32), make_split(10, size=2), seconds=0)
    assert result.accuracy.value == 0


def test_huge_logits_do_not_overflow(make_split: MakeSplit) -> None:
    split = make_split(10, size=2)
    logits = np.where(np.eye(2)[split.labels] == 1, 3e4, -3e4).astype(np.float32)
    result = evaluate_logits(logits, split, seconds=0)
    assert (result.accuracy.value, result.roc_auc, result.loss) == (1, 1, 0)


def test_logits_come_in_the_order_of_the_split(tiny_network: MakeNetwork, make_split: MakeSplit) -> None:
    """More images than a batch, the last batch smaller, normalised as everywhere."""
    network, split = tiny_network(), make_split(150, size=8)
    with torch.no_grad():
        expected = network(torch.from_numpy(normalise_pixels(split.images, MEAN, STD))).numpy()
    np.testing.assert_allclose(predict_logits(network, split, mean=MEAN, std=STD), expected, rtol=1e-4, atol=1e-5)


def test_evaluation_is_without_dropout_and_repeats(tiny_network: MakeNetwork, make_split: MakeSplit) -> None:
    network, split = tiny_network().train(), make_split(20)
    logits = [predict_logits(network, split, mean=GREY, std=GREY) for _ in range(2)]
    assert (logits[0] == logits[1]).all()
    assert int(network.stem[1].num_batches_tracked) == 0


# --------------------------------------------------------------------------------------------- recalibration


def first_statistics(network: nn.Module, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and variance of what the first BatchNorm reads, over all images at once."""
    with torch.no_grad():
        values = network.stem[0](torch.from_numpy(normalise_pixels(images, MEAN, STD))).double()
    return values.mean(dim=(0, 2, 3)), values.var(dim=(0, 2, 3))


def test_recalibrated_statistics_are_plain_averages_over_the_given_images(
    tiny_network: MakeNetwork, make_split: MakeSplit
) -> None:
    """Two full batches: not a moving average, which would still carry what was there before."""
    network, images = tiny_network(), make_split(256, size=16).images
    network.stem[1].running_mean.fill_(100)
    network.stem[1].running_var.fill_(100)
    network.stem[1].num_batches_tracked.fill_(1000)
    norm = recalibrate_batchnorm(network, images, mean=MEAN, std=STD).stem[1]
    mean, var = first_statistics(network, images)
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
    # A mean of two variances lacks the variance between the two batches.
    torch.testing.assert_close(norm.running_var.double(), var, rtol=0.02, atol=0)


@pytest.mark.parametrize("n", [130, 200])
def test_an_image_of_the_last_batch_weighs_as_much_as_any_other(
    tiny_network: MakeNetwork, make_split: MakeSplit, n: int
) -> None:
    """Two bright images left over after a batch of 128 dark ones must not make half of the statistics."""
    images = make_split(n, size=16).images // 8
    images[128:] += 200
    network = tiny_network()
    norm = recalibrate_batchnorm(network, images, mean=MEAN, std=STD).stem[1]
    mean, _ = first_statistics(network, images)
    scale = mean.abs().max().item()
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=0, atol=0.05 * scale)


def test_deeper_layers_are_measured_behind_normalised_ones(tiny_network: MakeNetwork, make_split: MakeSplit) -> None:
    network, images = tiny_network(), make_split(64, size=16).images
    norm = recalibrate_batchnorm(network, images, mean=MEAN, std=STD).body[1]
    trained = copy.deepcopy(network)
    trained.stem[1].train()
    with torch.no_grad():
        values = trained.body[0](trained.stem(torch.from_numpy(normalise_pixels(images, MEAN, STD))))
    torch.testing.assert_close(norm.running_mean, values.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, values.var(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_recalibration_changes_nothing_but_statistics(tiny_network: MakeNetwork, make_split: MakeSplit) -> None:
    """Its input stays as it is, mode included; the copy keeps weights and momentum, and dropout stays off."""
    network, images = tiny_network().train(), make_split(40).images
    before = copy.deepcopy(network)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    after = recalibrate_batchnorm(network, images, mean=MEAN, std=STD)
    assert torch.equal(torch.random.get_rng_state(), state)  # dropout would have drawn
    assert same_state(network, before)
    assert network.training
    assert not any(module.training for module in after.modules())
    assert [after.stem[1].momentum, after.body[1].momentum] == [0.01, 0.01]
    assert all(torch.equal(one, two) for one, two in zip(network.parameters(), after.parameters(), strict=True))
    assert not torch.equal(network.stem[1].running_mean, after.stem[1].running_mean)


def test_recalibration_repeats_and_depends_on_the_images(tiny_network: MakeNetwork, make_split: MakeSplit) -> None:
    network = tiny_network()
    one, two, other = (
        recalibrate_batchnorm(network, make_split(40, seed=seed).images, mean=MEAN, std=STD) for seed in (0, 0, 1)
    )
    assert same_state(one, two)
    assert not same_state(one, other)


# ------------------------------------------------------------------------------------------ folded BatchNorm


@pytest.fixture
def folded(disturbed: MakeNetwork) -> nn.Module:
    """A network as it comes from a runtime's file: statistics 0 and 1, folded into scale and shift."""
    network = disturbed("mobilenet_v3_small", size=32)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.running_mean)
            nn.init.ones_(module.running_var)
    return network


@pytest.mark.parametrize("n", [40, 200])
def test_restoring_statistics_keeps_the_function(folded: nn.Module, make_split: MakeSplit, n: int) -> None:
    """With few images as well: a small data set is no reason to refuse anybody's weights."""
    before = copy.deepcopy(folded)
    split = make_split(n)
    restored = restore_folded_batchnorm(folded, split.images, mean=MEAN, std=STD)
    assert same_state(folded, before)
    images = torch.from_numpy(normalise_pixels(make_split(16, seed=7).images, MEAN, STD)).double()
    with torch.no_grad():
        expected, found = before.double()(images), copy.deepcopy(restored).double()(images)
    # Its numbers are stored as float32.
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


def test_restored_statistics_are_those_of_the_images(folded: nn.Module, make_split: MakeSplit) -> None:
    """In training mode the network must then start where it is: batches normalise to what was measured."""
    images = make_split(128).images
    restored = restore_folded_batchnorm(folded, images, mean=MEAN, std=STD)
    with torch.no_grad():
        values = restored.features[0][0](torch.from_numpy(normalise_pixels(images, MEAN, STD)))
    norm = restored.features[0][1]
    torch.testing.assert_close(norm.running_mean, values.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, values.var(dim=(0, 2, 3), unbiased=False), rtol=1e-3, atol=1e-4)
    norms = [module for module in restored.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.running_mean.any() for norm in norms)
    assert not any(module._forward_pre_hooks for module in restored.modules())


# -------------------------------------------------------------------------------------------------- training


@pytest.fixture
def fit(dataset: Dataset, tiny_network: MakeNetwork) -> Callable[..., Fit]:
    def run(network: nn.Module | None = None, **changed: Any) -> Fit:
        settings: dict[str, Any] = {
            "mean": GREY, "std": GREY, "lr": lambda _: 0.02, "epochs": 5, "patience": None, "batch_size": 16,
            "weight_decay": 0.0, "bn_momentum": 0.1, "augment": None, "seed": 0,
        }  # fmt: skip
        fields = {field.name for field in dataclasses.fields(FitSettings)}
        settings |= {name: changed.pop(name) for name in fields & set(changed)}
        arguments = {"train": dataset.train, "val": dataset.val, "loss": cross_entropy, **changed}
        return fit_network(network or tiny_network(seed=1), settings=FitSettings(**settings), **arguments)

    return run


def test_the_best_epoch_by_validation_accuracy_is_what_comes_back(fit: Callable[..., Fit], dataset: Dataset) -> None:
    """The rate of the last epochs destroys what the first ones learned."""
    result = fit(lr=lambda progress: 0.02 if progress < 0.6 else 100.0)
    accuracies = [record.val_accuracy for record in result.epochs]
    assert accuracies[-1] < max(accuracies)
    assert result.best_epoch == accuracies.index(max(accuracies)) + 1
    again = evaluate_network(result.network, dataset.val, mean=GREY, std=GREY)
    best = result.epochs[result.best_epoch - 1]
    assert again.accuracy.value == best.val_accuracy
    assert again.loss == pytest.approx(best.val_loss, rel=1e-6)


def test_of_equal_epochs_the_first_is_kept(fit: Callable[..., Fit]) -> None:
    result = fit(lr=lambda _: 0.0, bn_momentum=1e-9, epochs=3)
    assert len({record.val_accuracy for record in result.epochs}) == 1
    assert result.best_epoch == 1


def test_patience_counts_epochs_since_the_best(fit: Callable[..., Fit]) -> None:
    result = fit(lr=lambda progress: 0.02 if progress < 0.1 else 100.0, epochs=30, patience=3)
    assert len(result.epochs) == result.best_epoch + 3 < 30


def test_without_patience_every_epoch_is_run(fit: Callable[..., Fit]) -> None:
    assert [record.epoch for record in fit(lr=lambda _: 0.0, epochs=6).epochs] == [1, 2, 3, 4, 5, 6]


def test_the_same_seed_gives_the_same_weights_whatever_happened_before(fit: Callable[..., Fit]) -> None:
    """A level made again after an interruption must be the same level, dropout and augmentation included."""
    torch.manual_seed(1)
    one = fit(augment=lambda images, generator: images * torch.rand(1, generator=generator))
    torch.manual_seed(2)
    torch.rand(17)
    two = fit(augment=lambda images, generator: images * torch.rand(1, generator=generator))
    assert same_state(one.network, two.network)
    assert [dataclasses.replace(record, seconds=0) for record in one.epochs] == [
        dataclasses.replace(record, seconds=0) for record in two.epochs
    ]


def test_another_seed_gives_other_weights(fit: Callable[..., Fit]) -> None:
    assert not same_state(fit(seed=0).network, fit(seed=1).network)


def test_the_callers_random_numbers_go_on_as_if_nothing_had_been(fit: Callable[..., Fit]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_the_network_given_is_not_changed(fit: Callable[..., Fit], tiny_network: MakeNetwork) -> None:
    network = tiny_network(seed=1)
    result = fit(network, epochs=2)
    assert same_state(network, tiny_network(seed=1))
    assert not network.training
    assert network.stem[1].momentum == 0.01
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not same_state(network, result.network)


def test_what_comes_back_is_in_evaluation_mode_with_its_own_momentum(fit: Callable[..., Fit]) -> None:
    """The momentum belongs to training; a stranger who trains on must find torchvision's."""
    network = fit(epochs=1, bn_momentum=0.5).network
    assert not any(module.training for module in network.modules())
    assert network.stem[1].momentum == 0.01


def test_batchnorm_momentum_reaches_the_statistics(fit: Callable[..., Fit]) -> None:
    """One batch an epoch: the statistics are momentum times that batch's."""
    slow, fast = (fit(lr=lambda _: 0.0, epochs=1, batch_size=96, bn_momentum=m).network for m in (0.25, 0.5))
    torch.testing.assert_close(2 * slow.stem[1].running_mean, fast.stem[1].running_mean, rtol=1e-4, atol=1e-6)


def test_weight_decay_shrinks_filters_and_spares_biases_and_batchnorm(fit: Callable[..., Fit]) -> None:
    """A loss without gradient leaves decay alone at work: AdamW takes lr * decay of a weight a step."""
    idle: dict[str, Any] = {"loss": lambda step: 0 * step.logits.sum(), "lr": lambda _: 0.1, "epochs": 1}
    plain, decayed = fit(**idle).network, fit(**idle, weight_decay=0.1).network
    torch.testing.assert_close(decayed.body[0].weight, plain.body[0].weight * (1 - 0.1 * 0.1) ** 6)
    torch.testing.assert_close(decayed.head.weight, plain.head.weight * (1 - 0.1 * 0.1) ** 6)
    assert torch.equal(decayed.head.bias, plain.head.bias)
    assert torch.equal(decayed.body[1].weight, plain.body[1].weight)


def test_the_learning_rate_follows_progress_through_all_epochs(fit: Callable[..., Fit]) -> None:
    seen: list[float] = []

    def rate(progress: float) -> float:
        seen.append(progress)
        return progress

    result = fit(lr=rate, epochs=2)
    # 96 images in batches of 16 are six steps an epoch; the rate is set for each group of parameters.
    assert sorted(set(seen)) == pytest.approx([step / 12 for step in range(12)])
    assert [record.lr for record in result.epochs] == [0.0, 0.5]


def test_progress_and_epochs_are_reported_as_they_happen(fit: Callable[..., Fit]) -> None:
    records, progress = [], []
    result = fit(epochs=2, on_epoch=records.append, progress=lambda done, total: progress.append((done, total)))
    assert tuple(records) == result.epochs
    assert progress == [(16 * step, 192) for step in range(1, 13)]


def test_a_split_smaller_than_a_batch_is_one_batch(fit: Callable[..., Fit]) -> None:
    assert len(fit(batch_size=1000, epochs=2).epochs) == 2


def test_a_run_that_diverges_ends_and_returns_its_best(fit: Callable[..., Fit]) -> None:
    result = fit(loss=lambda step: step.logits.sum() * float("nan"), epochs=2)
    assert len(result.epochs) == 2
    assert result.best_epoch == 1


def test_three_classes_are_learned(tiny_network: MakeNetwork, make_split: MakeSplit, fit: Callable[..., Fit]) -> None:
    splits = {
        name: make_split(96, classes=3, overlap=10, name=name, seed=index)
        for index, name in enumerate(("train", "val"))
    }
    result = fit(tiny_network(3, seed=1), **splits, epochs=25)
    evaluation = evaluate_network(result.network, splits["val"], mean=GREY, std=GREY)
    assert evaluation.accuracy.value > 0.8
    assert len(evaluation.confusion) == 3
    assert 0.8 < evaluation.roc_auc <= 1


def test_a_step_names_the_images_it_is_about(fit: Callable[..., Fit], dataset: Dataset) -> None:
    """What is kept for an image, such as a teacher's answer, is found by its row."""
    steps: list[Step] = []

    def loss(step: Step) -> Tensor:
        steps.append(step)
        return cross_entropy(step)

    fit(loss=loss, epochs=1)
    rows = torch.cat([step.rows for step in steps])
    assert sorted(rows.tolist()) == list(range(96))
    for step in steps:
        expected = torch.from_numpy(normalise_pixels(dataset.train.images[step.rows.numpy()], GREY, GREY))
        torch.testing.assert_close(step.images, expected)
        assert step.labels.tolist() == dataset.train.labels[step.rows.numpy()].tolist()


def test_watched_outputs_carry_gradients_and_leave_no_hooks(fit: Callable[..., Fit], tiny_network: MakeNetwork) -> None:
    shapes: set[tuple[int, ...]] = set()

    def loss(step: Step) -> Tensor:
        shapes.update(tuple(output.shape) for output in step.outputs.values())
        return step.outputs["body"].square().mean()

    network = tiny_network(seed=1)
    result = fit(network, loss=loss, watch=("body",), epochs=1)
    assert shapes == {(16, 8, 8, 8)}
    assert not torch.equal(result.network.stem[0].weight, network.stem[0].weight)
    assert not any(module._forward_hooks for module in [*result.network.modules(), *network.modules()])


def test_watching_ends_with_its_context(tiny_network: MakeNetwork) -> None:
    network, images = tiny_network(), torch.rand(2, 3, 32, 32)
    with watch_outputs(network, ["stem", "body"]) as outputs:
        network(images)
    assert list(outputs) == ["stem", "body"]
    torch.testing.assert_close(outputs["stem"], network.stem(images))
    outputs.clear()
    network(images)
    assert not outputs


# -------------------------------------------------------------------------------------------- batches made ahead


def test_batches_made_ahead_are_the_same_in_the_same_order_one_at_a_time() -> None:
    made: list[int] = []

    def count() -> Iterator[int]:
        for number in range(5):
            made.append(threading.get_ident())
            yield number

    for number, found in enumerate(run_ahead(count())):
        assert found == number
        assert len(made) <= number + 2
    assert len(made) == 5
    assert threading.get_ident() not in made


def test_an_error_while_a_batch_is_made_reaches_whoever_waits_for_it() -> None:
    def break_down() -> Iterator[int]:
        yield 1
        raise KeyError("second")

    batches = run_ahead(break_down())
    assert next(batches) == 1
    with pytest.raises(KeyError, match="second"):
        next(batches)


def test_leaving_early_ends_the_thread(make_split: MakeSplit) -> None:
    batches = run_ahead(iterate_batches(make_split(40), batch_size=8, mean=GREY, std=GREY))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_the_parts_of_a_batch_are_the_batch(make_split: MakeSplit) -> None:
    """Every second image: neighbours in the split are of one class, and each part must see both."""

    def batches(part: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        return list(iterate_batches(make_split(40), batch_size=15, mean=GREY, std=GREY, generator=generator, part=part))

    for (images, labels), first, second in zip(batches((0, 1)), batches((0, 2)), batches((1, 2)), strict=True):
        assert torch.equal(images[0::2], first[0])
        assert torch.equal(images[1::2], second[0])
        assert torch.equal(labels[1::2], second[1])


# --------------------------------------------------------------------------------------------------- averaging


def test_the_average_follows_its_recursion_batchnorm_statistics_included(tiny_network: MakeNetwork) -> None:
    """Statistics of the last step's weights would not fit averaged ones. The decay rises to the one asked for."""
    start, follower = tiny_network(seed=1), tiny_network(seed=1)
    average = WeightAverage(follower, 0.3)
    expected = {name: value.clone().double() for name, value in start.state_dict().items()}
    for step, decay in enumerate((2 / 11, 3 / 12, 0.3, 0.3)):
        with torch.no_grad():
            for index, value in enumerate(follower.state_dict().values()):
                value.add_(1 + step + index)
        average.update()
        expected = {name: decay * expected[name] + (1 - decay) * value for name, value in follower.state_dict().items()}
    for name, value in average.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)
        else:
            assert value == follower.state_dict()[name]
    assert same_state(start, tiny_network(seed=1))


def test_the_average_is_judged_and_kept_and_training_goes_on_without_it(
    fit: Callable[..., Fit], dataset: Dataset
) -> None:
    plain, averaged = fit(lr=lambda _: 0.1), fit(lr=lambda _: 0.1, ema=0.9)
    assert [e.train_loss for e in plain.epochs] == [e.train_loss for e in averaged.epochs]
    assert [e.val_loss for e in plain.epochs] != [e.val_loss for e in averaged.epochs]
    again = evaluate_network(averaged.network, dataset.val, mean=GREY, std=GREY)
    assert again.loss == pytest.approx(averaged.epochs[averaged.best_epoch - 1].val_loss, rel=1e-6)
    assert not any(module.training for module in averaged.network.modules())
    assert averaged.network.stem[1].momentum == 0.01


# ------------------------------------------------------------------------------------------------------- mixup


def numbered_images(n: int, size: int) -> Tensor:
    """Image k is k everywhere: a mixed image says which two it was made of."""
    return (
        torch.arange(n).float().view(n, 1, 1, 1).expand(n, 3, size, size).contiguous(memory_format=torch.channels_last)
    )


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixed_images_and_shares_are_weighed_alike(alpha: float) -> None:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    mixture = mix_images(numbered_images(8, 4), order, alpha=alpha)
    assert 0.5 <= mixture.share[0, 0] <= 1
    assert (mixture.share == mixture.share[0]).all()
    expected = mixture.share[:, 0] * torch.arange(8) + (1 - mixture.share[:, 0]) * mixture.order
    torch.testing.assert_close(mixture.images, expected.view(8, 1, 1, 1).expand(8, 3, 4, 4))
    shares = mixture.mix(functional.one_hot(torch.arange(8), 10).float())
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(8))
    torch.testing.assert_close(shares @ torch.arange(10.0), expected)
    assert sorted(mixture.order.tolist()) == list(range(8))
    assert mixture.images.is_contiguous(memory_format=torch.channels_last)


def test_a_pasted_image_covers_the_share_that_its_label_gets() -> None:
    images = numbered_images(8, 32)
    mixture = paste_images(images, fraction=0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(images, numbered_images(8, 32))
    touched = mixture.share[:, 0] < 1
    assert touched.sum() == 4
    pixels = mixture.images.round()  # shrinking a plain image moves its shade in the last bit
    own = (pixels == torch.arange(8).view(8, 1, 1, 1)).float().mean(dim=(1, 2, 3))
    torch.testing.assert_close(own, torch.where(mixture.order == torch.arange(8), torch.ones(8), mixture.share[:, 0]))
    assert ((1 - mixture.share[touched]) >= 0.1).all()
    foreign = pixels.amax(dim=(1, 2, 3)) + pixels.amin(dim=(1, 2, 3)) - torch.arange(8)
    assert torch.equal(foreign[touched], mixture.order[touched].float())
    shares = mixture.mix(functional.one_hot(torch.arange(8), 8).float())
    torch.testing.assert_close(shares.diagonal(), own)
    assert mixture.images.is_contiguous(memory_format=torch.channels_last)


def test_the_mixing_parameter_moves_proportions_from_the_ends_to_the_middle() -> None:
    def mean_share(alpha: float) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            images, order = torch.zeros(2, 3, 1, 1), torch.arange(2)
            return float(np.mean([mix_images(images, order, alpha=alpha).share[0, 0] for _ in range(400)]))

    # Of Beta(a, a), the mean of the larger of x and 1 - x: 3/4 for the uniform a = 1.
    assert mean_share(1.0) == pytest.approx(0.75, abs=0.02)
    assert mean_share(0.1) > 0.9
    assert mean_share(10.0) < 0.65


def test_the_loss_sees_shares_of_classes_of_mixed_images(fit: Callable[..., Fit]) -> None:
    seen: list[Tensor] = []

    def loss(step: Step) -> Tensor:
        seen.append(step.labels)
        return cross_entropy(step)

    one, two = fit(loss=loss, mixup=1.0, epochs=2), fit(mixup=1.0, epochs=2)
    assert same_state(one.network, two.network)
    assert {tuple(labels.shape) for labels in seen} == {(16, 2)}
    torch.testing.assert_close(torch.cat(seen).sum(dim=1), torch.ones(192))
    assert all(0 <= epoch.train_accuracy <= 1 for epoch in one.epochs)


# ------------------------------------------------------------------------------------------------------- rates


def test_a_constant_rate_is_exactly_constant() -> None:
    rate = choose_rate("constant", lr=0.003, warmup_epochs=0, epochs=7)
    assert {rate(progress / 100) for progress in range(100)} == {0.003}


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine"])
def test_a_warm_up_lasts_its_epochs_and_at_most_half(lr_schedule: Any) -> None:
    rate = choose_rate(lr_schedule, lr=1.0, warmup_epochs=1, epochs=4)
    assert [rate(progress) for progress in (0.0, 0.125, 0.25)] == pytest.approx([0.01, 0.5, 1.0])
    assert choose_rate(lr_schedule, lr=1.0, warmup_epochs=9, epochs=4)(0.25) == pytest.approx(0.5)


def test_a_cosine_without_warm_up_falls_from_the_first_step_to_zero() -> None:
    rate = choose_rate("cosine", lr=2.0, warmup_epochs=0, epochs=4)
    assert [rate(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([2.0, 1.0, 0.0])


@pytest.mark.parametrize(("warmup_epochs", "share"), [(0, 0.3), (2, 0.2)])
def test_one_cycle_is_torchs(warmup_epochs: float, share: float) -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    steps = 2000
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.7, total_steps=steps, pct_start=share)
    ours = choose_rate("one_cycle", lr=0.7, warmup_epochs=warmup_epochs, epochs=10)
    for step in range(steps):
        # Theirs reaches its peak one step earlier.
        assert ours(step / steps) == pytest.approx(optimiser.param_groups[0]["lr"], abs=0.003)
        optimiser.step()
        theirs.step()


def test_patience_stops_a_falling_rate_before_its_end(fit: Callable[..., Fit]) -> None:
    """It counts epochs whatever the rate does; a schedule that must end needs as much patience as epochs."""
    rate = choose_rate("cosine", lr=1e-9, warmup_epochs=0, epochs=6)
    assert len(fit(lr=rate, bn_momentum=1e-9, epochs=6, patience=2).epochs) == 3
    assert len(fit(lr=rate, bn_momentum=1e-9, epochs=6, patience=6).epochs) == 6


# -------------------------------------------------------------------------------------------------- baseline


def test_a_warm_up_is_linear_and_then_half_a_cosine() -> None:
    rate = warm_up_then_cosine(2.0, 0.2)
    assert [rate(progress) for progress in (0.05, 0.1, 0.2)] == pytest.approx([0.5, 1.0, 2.0])
    assert rate(0.6) == pytest.approx(1.0)
    assert rate(0.9999) < 1e-5
    assert rate(0.0) > 0
    assert warm_up_then_cosine(2.0, 0.0)(0.0) == 2.0


@pytest.fixture
def train(dataset: Dataset, tiny_network: MakeNetwork) -> Callable[..., Fit]:
    def run(**changed: Any) -> Fit:
        arguments: dict[str, Any] = {
            "dataset": dataset, "mean": GREY, "std": GREY, "epochs": 2, "batch_size": 16, "lr": 0.02,
            "weight_decay": 0.01, "warmup_epochs": 1.0, "label_smoothing": 0.0, "class_weights": False,
            "bn_momentum": 0.1, "augment": None, "seed": 0,
        }  # fmt: skip
        return train_baseline(tiny_network(seed=1), **{**arguments, **changed})

    return run


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 3),
        ("batch_size", 32),
        ("lr", 0.01),
        ("weight_decay", 0.5),
        ("warmup_epochs", 0.0),
        ("label_smoothing", 0.2),
        ("bn_momentum", 0.5),
        ("seed", 1),
        ("augment", lambda images, _: images.flip(3)),
    ],
)
def test_each_value_of_the_train_section_reaches_the_code(train: Callable[..., Fit], name: str, value: object) -> None:
    stories = [
        [dataclasses.replace(record, seconds=0) for record in result.epochs]
        for result in (train(), train(**{name: value}))
    ]
    assert stories[0] != stories[1]


def test_class_weights_count_a_rare_class_as_much_as_a_frequent_one(
    train: Callable[..., Fit], dataset: Dataset
) -> None:
    """Of 96 images 8 are bright; unweighted, a network that calls everything dark is 92 % right."""
    rare = np.flatnonzero(dataset.train.labels == 1)[8:]
    labels = dataset.train.labels.copy()
    labels[rare] = 0
    skewed = dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, labels=labels))
    plain, weighted = (train(dataset=skewed, class_weights=switch, epochs=1) for switch in (False, True))
    shares = [
        predict_logits(result.network, dataset.val, mean=GREY, std=GREY).argmax(1).mean()
        for result in (plain, weighted)
    ]
    assert shares[1] > shares[0]
    assert inverse_frequencies(labels.tolist(), 2).tolist() == pytest.approx([96 / (2 * 88), 96 / (2 * 8)])


def test_the_test_split_is_not_touched(train: Callable[..., Fit], dataset: Dataset) -> None:
    """Neither learned from nor selected on: removing it changes nothing."""
    without = dataclasses.replace(dataset, test=None)  # type: ignore[arg-type]
    assert same_state(train(dataset=without).network, train().network)
