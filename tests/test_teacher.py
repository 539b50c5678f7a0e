"""A teacher in a file answers as the network that it was made from, whatever its size, normalisation and order."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from mcu_models import SIZE, TINY_MEAN, TINY_STD, nhwc, tiny_float, tiny_images, tiny_int8, tiny_network
from onnx import TensorProto, helper
from onnx_models import export
from torch import Tensor, nn

from edgeprune.data import Dataset
from edgeprune.errors import InputError
from edgeprune.export.tflite_file import convert_network, strip_model
from edgeprune.export.tflite_int8 import choose_ranges, observe_ranges, quantise_model
from edgeprune.learning import distillation_loss, labels_loss
from edgeprune.preprocess import normalise_pixels
from edgeprune.teacher import FileTeacher
from edgeprune.train import train_baseline

HALVES = (0.5, 0.5, 0.5)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def teacher_of(path: Path, *, order: tuple[int, ...] = (0, 1), student: tuple[float, ...] = HALVES) -> FileTeacher:
    return FileTeacher(path, student_mean=student, student_std=student, mean=TINY_MEAN, std=TINY_STD, order=order)


def student_sees(images: np.ndarray) -> Tensor:
    return torch.from_numpy(normalise_pixels(images, HALVES, HALVES))


def network_answers(images: np.ndarray) -> Tensor:
    with torch.no_grad():
        return tiny_network()(torch.from_numpy(normalise_pixels(images, TINY_MEAN, TINY_STD)))


@pytest.mark.parametrize("count", [1, 5, 16])
def test_a_tflite_teacher_answers_batches_as_its_network_does(tmp_path: Path, count: int) -> None:
    """The student normalises otherwise than the teacher was trained; the pixels are the same."""
    teacher, images = teacher_of(written(tmp_path / "t.tflite", tiny_float())), tiny_images(count)
    torch.testing.assert_close(teacher(student_sees(images)), network_answers(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_an_onnx_teacher_answers_batches_as_its_network_does(tmp_path: Path, dynamic_batch: bool) -> None:
    content = export(tiny_network(), size=SIZE, dynamic_batch=dynamic_batch)
    teacher, images = teacher_of(written(tmp_path / "t.onnx", content)), tiny_images(5)
    torch.testing.assert_close(teacher(student_sees(images)), network_answers(images), atol=1e-4, rtol=1e-4)


def test_an_int8_teacher_is_quantised_and_read_back(tmp_path: Path) -> None:
    teacher, images = teacher_of(written(tmp_path / "t.tflite", tiny_int8())), tiny_images(16)
    wanted = network_answers(images)
    assert (teacher(student_sees(images)) - wanted).abs().max() < 0.1 * (wanted.max() - wanted.min()) + 0.05


def test_outputs_in_another_order_are_put_into_the_student_s(tmp_path: Path) -> None:
    path, images = written(tmp_path / "t.tflite", tiny_float()), student_sees(tiny_images(4))
    assert torch.equal(teacher_of(path, order=(1, 0))(images), teacher_of(path)(images).flip(1))


def test_images_of_another_size_are_resized_and_stay_pixels(tmp_path: Path) -> None:
    """Twice as large by repetition: what the teacher sees is the small image again, but for the filter's reach."""
    teacher = teacher_of(written(tmp_path / "t.tflite", tiny_float()))
    images = tiny_images(4)
    large = images.repeat(2, axis=1).repeat(2, axis=2)
    near, far = teacher(student_sees(large)), teacher(student_sees(255 - images))
    wanted = teacher(student_sees(images))
    assert (near - wanted).abs().max() < 0.35 * (far - wanted).abs().max()


def test_probabilities_are_read_as_their_logarithms(tmp_path: Path) -> None:
    softened = nn.Sequential(*tiny_network(), nn.Softmax(dim=1)).eval()
    plain = teacher_of(written(tmp_path / "t.onnx", export(tiny_network(), size=SIZE)))
    soft = teacher_of(written(tmp_path / "s.onnx", export(softened, size=SIZE)))
    images = student_sees(tiny_images(4))
    torch.testing.assert_close(soft(images).softmax(dim=1), plain(images).softmax(dim=1), atol=1e-4, rtol=1e-4)
    assert (soft(images) <= 0).all()


def test_probabilities_of_many_classes_in_steps_of_int8_are_probabilities(tmp_path: Path) -> None:
    """Most of a hundred round to nothing, and the rest sums to anything but one."""
    head = nn.Linear(16, 100, bias=False)
    nn.init.normal_(head.weight, std=3, generator=torch.Generator().manual_seed(0))
    soft = nn.Sequential(*list(tiny_network())[:-1], head, nn.Softmax(dim=1)).eval()
    content, images = convert_network(soft, image_size=SIZE).content, tiny_images(64)
    ranges = choose_ranges(content, observe_ranges(content, nhwc(images)), "min_max")
    path = written(tmp_path / "t.tflite", strip_model(quantise_model(content, ranges)))
    teacher = teacher_of(path, order=tuple(range(100)))
    told = teacher(student_sees(images)).softmax(dim=1)
    with torch.no_grad():
        wanted = soft(torch.from_numpy(normalise_pixels(images, TINY_MEAN, TINY_STD)))
    assert (told - wanted).abs().max() < 0.1


def test_a_teacher_passes_no_gradient_and_copies_as_itself(tmp_path: Path) -> None:
    teacher = teacher_of(written(tmp_path / "t.tflite", tiny_float()))
    assert not teacher(student_sees(tiny_images(2)).requires_grad_()).requires_grad
    assert copy.deepcopy(teacher) is teacher


def two_inputs() -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "g", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def classifier(shape: list[int | str], kind: int = TensorProto.FLOAT) -> bytes:
    """Mean colour and nothing more."""
    values = [
        helper.make_tensor_value_info("a", kind, shape),
        helper.make_tensor_value_info("c", kind, [shape[0], 3]),
    ]
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["a"], ["c"], axes=[2, 3], keepdims=0)], "g", *([v] for v in values)
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.onnx", classifier(["n", 3, "height", "width"]), r"of shapes \[1, 3, -1, -1\]"),
        ("t.onnx", classifier([1, 3, 8, 8], TensorProto.FLOAT16), r"takes tensor\(float16\)"),
        ("t.tflite", b"no model", "cannot be read"),
        ("t.onnx", b"no model", "cannot be read"),
        ("t.onnx", two_inputs(), "2 inputs and 1 outputs"),
    ],
)
def test_what_is_no_classifier_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        teacher_of(written(tmp_path / name, content))


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gives 2 outputs, the student has 3 classes"):
        teacher_of(written(tmp_path / "t.tflite", tiny_float()), order=(0, 1, 2))


# ------------------------------------------------------------------------------------------- labels and what lacks them


def some_logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)


def test_an_image_without_a_label_learns_from_the_teacher_alone() -> None:
    student, teacher = some_logits()
    nothing = torch.zeros(4, 3)
    for alpha in (0.0, 0.7):
        torch.testing.assert_close(
            distillation_loss(student, teacher, nothing, alpha=alpha, temperature=2.0),
            distillation_loss(student, teacher, torch.arange(4) % 3, alpha=1.0, temperature=2.0),
        )
    assert labels_loss(student, nothing, label_smoothing=0.1) == 0


def test_what_a_label_lacks_of_a_whole_weight_goes_to_the_teacher() -> None:
    student, teacher = some_logits()
    whole = nn.functional.one_hot(torch.arange(4) % 3, 3).float()
    losses = [
        distillation_loss(student, teacher, weight * whole, alpha=0.4, temperature=1.5) for weight in (0.0, 0.25, 1.0)
    ]
    torch.testing.assert_close(losses[1], 0.75 * losses[0] + 0.25 * losses[2])
    torch.testing.assert_close(
        losses[2], distillation_loss(student, teacher, torch.arange(4) % 3, alpha=0.4, temperature=1.5)
    )


def test_images_without_labels_need_a_teacher(dataset: Dataset, tiny_network: nn.Module) -> None:
    labels = dataset.train.labels.copy()
    labels[::2] = -1
    unlabelled = dataset_with(dataset, labels)
    with pytest.raises(InputError, match="48 of 96 training images have no label"):
        train(tiny_network(), unlabelled)  # type: ignore[operator]


def test_soft_labels_teach_where_no_label_does(dataset: Dataset, tiny_network: nn.Module) -> None:
    """As a list gives them: the weights are of the labels, and there are none. They say the opposite of the truth."""
    n = len(dataset.train.labels)
    contrary = np.eye(2, dtype=np.float32)[1 - dataset.train.labels]
    unlabelled = dataset_with(dataset, np.full(n, -1))
    soft = replace(unlabelled.train, soft=contrary, weights=np.zeros(n, np.float32))
    assert train(tiny_network(), replace(unlabelled, train=soft)) < 0.3  # type: ignore[operator]
    contrary[::4] = np.nan
    with pytest.raises(InputError, match="24 of 96 training images have no label"):
        train(tiny_network(), replace(unlabelled, train=soft))  # type: ignore[operator]


def test_a_teacher_teaches_what_has_no_label(dataset: Dataset, tiny_network: nn.Module) -> None:
    """It says the opposite of the truth, and no label contradicts it."""
    labels = np.full_like(dataset.train.labels, -1)
    student = train(tiny_network(), dataset_with(dataset, labels), teacher=Contrary(), alpha=0.5)  # type: ignore[operator]
    assert student < 0.3


class Contrary(nn.Module):
    """Calls dark images bright."""

    def forward(self, images: Tensor) -> Tensor:
        shade = images.mean(dim=(1, 2, 3))
        return torch.stack([shade, -shade], dim=1) * 10


def dataset_with(dataset: Dataset, labels: np.ndarray) -> Dataset:
    return replace(dataset, train=replace(dataset.train, labels=labels))


def train(network: nn.Module, dataset: Dataset, **values: object) -> float:
    fit = train_baseline(
        network,
        dataset=dataset,
        mean=HALVES,
        std=HALVES,
        epochs=6,
        batch_size=16,
        lr=0.02,
        weight_decay=0.0,
        warmup_epochs=0.0,
        label_smoothing=0.0,
        class_weights=False,
        bn_momentum=0.5,
        augment=None,
        seed=0,
        **values,  # type: ignore[arg-type]
    )
    return fit.epochs[-1].val_accuracy
