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

from edgeprune.data import Dataset, augment_batch, iterate_batches
from edgeprune.errors import InputError
from edgeprune.learning import Fit, FitSettings, choose_rate
from edgeprune.learning.losses import distillation_loss, soft_target_loss
from edgeprune.preprocess import normalise_pixels
from edgeprune.recipe import RecoverSection, parse_recipe
from edgeprune.recover import Distillation, learning_rate_for, recover_accuracy
from edgeprune.recover.answers import RememberedAnswers
from edgeprune.recover.attention import attention_distance, attention_map, choose_blocks

GREY = (0.5, 0.5, 0.5)
# Two epochs of small batches: enough that every value leaves its mark.
VALUES: dict[str, Any] = {
    "alpha": 0.5, "temperature": 4.0, "epochs": 2, "patience": 2, "lr": 0.01, "batch_size": 16, "weight_decay": 0.01,
    "bn_momentum": 0.1, "augment": None, "seed": 0,
    "lr_schedule": "constant", "warmup_epochs": 0.0, "ema": 0.0, "mixup": 0.0, "paste": 0.0, "labelled_share": 0.0,
    "label_smoothing": 0.0,
    "feature_weight": 0.0, "feature_blocks": (), "cache_teacher": False,
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
        values = (
            {"teacher": tiny_network(seed=9), "dataset": dataset, "network": tiny_network(seed=1)} | VALUES | changed
        )
        values = {"mean": GREY, "std": GREY, "keep": "best"} | values
        rate = choose_rate(
            values["lr_schedule"], lr=values["lr"], warmup_epochs=values["warmup_epochs"], epochs=values["epochs"]
        )
        distillation, settings = (
            kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)} | extra)
            for kind, extra in ((Distillation, {}), (FitSettings, {"lr": rate}))
        )
        return recover_accuracy(
            values["network"],
            teacher=values["teacher"],
            dataset=values["dataset"],
            distillation=distillation,
            settings=settings,
        )

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
        ("lr_schedule", "cosine"),
        ("lr_schedule", "one_cycle"),
        ("warmup_epochs", 1.0),
        ("ema", 0.5),
        ("mixup", 0.2),
        ("label_smoothing", 0.1),
        ("feature_weight", 1.0),
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
    parameters = {
        name for function in (recover_accuracy, learning_rate_for, choose_rate)
        for name in inspect.signature(function).parameters
    } | {field.name for kind in (Distillation, FitSettings) for field in dataclasses.fields(kind)}  # fmt: skip
    # The epochs of a budget's level, which become its epochs: tests/test_pipeline.py.
    fields = set(RecoverSection.model_fields) - {"budget_epochs"}
    assert fields <= parameters
    assert fields - set(VALUES) == {"teacher", "lr_high", "lr_high_threshold"}


def test_every_option_is_off_by_default() -> None:
    """The defaults are what earlier results were made with."""
    section = RecoverSection()
    options = [name for name in VALUES if name in RecoverSection.model_fields]
    off = options[options.index("lr_schedule") :]
    assert {name: getattr(section, name) for name in off} == {name: VALUES[name] for name in off}


def test_with_every_option_off_recovery_is_a_plain_loop(
    recover: Recover, dataset: Dataset, tiny_network: Callable[..., nn.Module]
) -> None:
    """To the last bit: no option that is off draws a number or adds a term."""

    def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return images * torch.rand(1, generator=generator)

    network, teacher = (tiny_network(seed=seed).to(memory_format=torch.channels_last) for seed in (1, 9))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(2):
            network.train()
            batches = iterate_batches(
                dataset.train, batch_size=16, mean=GREY, std=GREY, generator=generator, augment=augment, drop_last=True
            )
            for images, labels in batches:
                logits = network(images)
                with torch.no_grad():
                    soft = (teacher(images) / 4).log_softmax(1)
                divergence = functional.kl_div(
                    (logits / 4).log_softmax(1), soft, reduction="batchmean", log_target=True
                )
                loss = 0.5 * (divergence * 16) + 0.5 * functional.cross_entropy(logits, labels)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    fit = recover(augment=augment, weight_decay=0.0, keep="last")
    assert torch.equal(weights_of(fit), torch.cat([t.double().flatten() for t in network.state_dict().values()]))


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


def test_label_smoothing_is_about_the_labels_only() -> None:
    student, teacher, labels = random_logits()
    smooth = distillation_loss(student, teacher, labels, alpha=0.3, temperature=2.0, label_smoothing=0.2)
    spread = 0.8 * functional.one_hot(labels, 4) + 0.2 / 4
    hard = -(spread * student.log_softmax(1)).sum(dim=1).mean()
    torch.testing.assert_close(smooth, 0.3 * 4 * soft_target_loss(student, teacher, 2.0) + 0.7 * hard)


def test_shares_of_classes_are_labels_too() -> None:
    student, teacher, labels = random_logits()
    shares = functional.one_hot(labels, 4).double()
    one, two = (distillation_loss(student, teacher, x, alpha=0.3, temperature=2.0) for x in (labels, shares))
    torch.testing.assert_close(one, two)


def test_the_teacher_sees_the_mixed_images(recover: Recover) -> None:
    """Its soft output for an unmixed image would contradict the mixed label."""
    seen: list[torch.Tensor] = []

    class Probe(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.mean(dim=(1, 2, 3)))
            return x.mean(dim=(2, 3))[:, :2]

    values = []
    for mixup in (0.0, 1.0):
        seen.clear()
        recover(teacher=Probe(), epochs=1, mixup=mixup)
        values.append(torch.cat(seen).std())
    # Averages of two lie closer together.
    assert values[1] < 0.9 * values[0]


# --------------------------------------------------------------------------------------------------- attention


def test_an_attention_map_is_energy_by_place_of_unit_length() -> None:
    output = torch.zeros(2, 5, 2, 3)
    output[:, :, 0, 0], output[:, 2, 1, 2] = 3.0, -2.0
    # Energies 9 and 4 / 5: averaged over five channels, two of six places are lit.
    expected = torch.zeros(6)
    expected[0], expected[5] = 9.0, 0.8
    torch.testing.assert_close(attention_map(output), (expected / expected.norm()).expand(2, 6))


def test_attention_does_not_depend_on_channels_or_scale() -> None:
    output = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    twice = torch.cat([output, output], dim=1)
    torch.testing.assert_close(attention_map(twice * 7), attention_map(output))


def test_the_distance_is_zero_where_both_look_alike_and_two_where_they_look_elsewhere() -> None:
    left, right = torch.zeros(1, 2, 1, 2), torch.zeros(1, 3, 1, 2)
    left[..., 0], right[..., 1] = 1.0, 1.0
    assert attention_distance({"a": left}, {"a": attention_map(left)}).item() == 0
    assert attention_distance({"a": left}, {"a": attention_map(right)}).item() == 2
    both = {"a": attention_map(right), "b": attention_map(left)}
    assert attention_distance({"a": left, "b": left}, both).item() == 1


@pytest.mark.parametrize(
    ("network", "blocks"),
    [
        ("mobilenet_v3_small", [f"features.{index}" for index in range(9)]),
        ("resnet18", [f"layer{stage}.{index}" for stage in (1, 2, 3) for index in (0, 1)]),
        ("densenet121", ["features.denseblock1", "features.transition1", "features.denseblock2", "features.transition2",
                         "features.denseblock3"]),
        ("squeezenet1_1", [f"features.{index}" for index in (3, 4, 6, 7)]),
    ],
)  # fmt: skip
def test_the_blocks_are_modules_at_depth_two_that_look_somewhere(
    disturbed: Callable[..., nn.Module], network: str, blocks: list[str]
) -> None:
    """At 32 pixels the last maps of most networks are a single place: nothing to learn from."""
    built = disturbed(network, size=32)
    assert list(choose_blocks(built, built, image_size=32)) == blocks


def test_a_network_without_composed_blocks_gives_all_its_maps(tiny_network: Callable[..., nn.Module]) -> None:
    blocks = choose_blocks(tiny_network(), tiny_network(), image_size=32)
    assert blocks == ("stem.0", "stem.1", "stem.2", "body.0", "body.1", "body.2")


def test_named_blocks_are_taken_as_they_are(tiny_network: Callable[..., nn.Module], recover: Recover) -> None:
    assert choose_blocks(tiny_network(), tiny_network(), image_size=32, names=("body",)) == ("body",)
    named, all_of_them = (recover(feature_weight=1.0, feature_blocks=blocks) for blocks in (("body",), ()))
    assert story_of(named) != story_of(all_of_them)


def test_another_networks_features_are_refused(tiny_network: Callable[..., nn.Module], recover: Recover) -> None:
    class Other(nn.Module):
        def __init__(self, stride: int) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 5, 3, stride, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.stem(x).mean(dim=(2, 3))[:, :2]

    with pytest.raises(InputError, match=r"'stem.0' cannot be distilled: no such module runs in the teacher"):
        recover(teacher=Other(2), feature_weight=1.0)
    with pytest.raises(InputError, match=r"gives 8 x 16 x 16 in the network to recover, 5 x 32 x 32 in the teacher"):
        recover(teacher=Other(1), feature_weight=1.0, feature_blocks=("stem",))
    with pytest.raises(InputError, match=r"'neck' cannot be distilled: no such module runs in the network to recover"):
        recover(feature_weight=1.0, feature_blocks=("neck",))
    with pytest.raises(InputError, match=r"'head' cannot be distilled: it gives 2 in the network"):
        recover(feature_weight=1.0, feature_blocks=("head",))
    # Another network that has the blocks named will do, whatever else it has and however many channels.
    assert recover(teacher=Other(2), feature_weight=1.0, feature_blocks=("stem",)).epochs


def test_a_flat_network_has_no_features() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(InputError, match=r"No block of the network gives a map"):
        choose_blocks(flat, flat, image_size=8)


def test_with_attention_transfer_the_student_looks_where_its_teacher_looks(
    recover: Recover, dataset: Dataset, tiny_network: Callable[..., nn.Module]
) -> None:
    teacher = tiny_network(seed=9)
    images = torch.from_numpy(normalise_pixels(dataset.val.images, GREY, GREY))

    def distance(network: nn.Module) -> float:
        with torch.no_grad():
            maps = [attention_map(module.body(module.stem(images))) for module in (network, teacher)]
        return float((maps[0] - maps[1]).square().sum(dim=1).mean())

    values: dict[str, Any] = {"feature_blocks": ("body",), "epochs": 10, "patience": 10}
    with_it = recover(feature_weight=100.0, **values).network
    without = recover(**values).network
    assert distance(with_it) < 0.7 * distance(without)


# ----------------------------------------------------------------------------------------- remembered answers


def turning(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return augment_batch(images, generator, flip_horizontal=True, flip_vertical=True, quarter_turns=True)


class Corner(nn.Module):
    """A teacher whose answer depends on which way up an image is; counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        return torch.stack([x[:, 0, 0, 0], x[:, 0, 0, -1]], dim=1)


def test_remembered_answers_are_the_teachers_own_in_every_orientation(dataset: Dataset) -> None:
    teacher = Corner()
    answers = RememberedAnswers(teacher, images=96, augment=turning)
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(96)
    plain = torch.from_numpy(dataset.train.images).permute(0, 3, 1, 2).float() / 255
    assert answers.augment is not None
    for _ in range(60):
        images = answers.augment(plain, generator)
        expected = Corner()(images)
        assert torch.equal(answers.answer(images, rows), expected)
    # 60 draws of 8 leave none of 96 images' forms out by more than chance.
    assert 0.98 * 8 * 96 < teacher.asked == answers.asked <= 8 * 96


def test_noticing_the_orientation_draws_no_other_numbers(dataset: Dataset) -> None:
    images = torch.rand(16, 3, 8, 8)
    answers = RememberedAnswers(Corner(), images=16, augment=turning)
    assert answers.augment is not None
    one, two = (torch.Generator().manual_seed(3) for _ in range(2))
    for _ in range(3):
        assert torch.equal(answers.augment(images, one), turning(images, two))
    assert torch.equal(one.get_state(), two.get_state())


@pytest.mark.parametrize("augment", [None, turning])
def test_remembering_changes_what_is_asked_and_not_what_is_learned(
    recover: Recover, augment: Any, tiny_network: Callable[..., nn.Module]
) -> None:
    fits, asked = [], []
    for cache_teacher in (False, True):
        count = [0]
        teacher = tiny_network(seed=9)
        teacher.register_forward_hook(
            lambda _, inputs, __, count=count: count.__setitem__(0, count[0] + len(inputs[0]))
        )
        fits.append(recover(teacher=teacher, augment=augment, epochs=4, patience=4, cache_teacher=cache_teacher))
        asked.append(count[0])
    # An image's answer may differ in its last bits with the batch that it is computed in.
    torch.testing.assert_close(weights_of(fits[0]), weights_of(fits[1]), rtol=1e-3, atol=1e-4)
    assert asked[0] == 4 * 96
    assert asked[1] == 96 if augment is None else 96 < asked[1] < 4 * 96


@pytest.mark.parametrize("change", [{"shift_pixels": 1}, {"brightness": 0.1}, {"contrast": 0.1}])
def test_what_never_comes_twice_is_not_remembered(recover: Recover, change: dict[str, Any]) -> None:
    """A remembered answer to another image would be a wrong one, and nobody would notice."""
    with pytest.raises(InputError, match=r"more of an image than its orientation"):
        recover(cache_teacher=True, augment=lambda images, generator: augment_batch(images, generator, **change))


@pytest.mark.parametrize("other", ["mixup", "feature_weight"])
def test_mixed_images_and_features_are_not_remembered(recover: Recover, other: str) -> None:
    with pytest.raises(InputError, match=r"cache_teacher keeps logits of images that come again"):
        recover(cache_teacher=True, **{other: 1.0})
    with pytest.raises(InputError, match=r"needs mixup 0, paste 0 and feature_weight 0"):
        parse_recipe({"name": "tiny", "recover": {"cache_teacher": True, other: 1.0}}, origin="tiny.yaml")


def test_blocks_named_for_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"feature_blocks are named, but feature_weight is 0"):
        parse_recipe({"name": "tiny", "recover": {"feature_blocks": ["features.4"]}}, origin="tiny.yaml")
