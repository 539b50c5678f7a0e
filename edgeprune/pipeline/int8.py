"""How an int8 file comes about: condition the weights, try every calibration on validation, train if that falls short.

The result is kept beside the level, because training takes minutes: the same weights and settings are never done twice.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn

from edgeprune.calibration import METHODS
from edgeprune.data import Dataset, sample_images
from edgeprune.evaluation import predict_logits
from edgeprune.export.tflite_file import FloatModel
from edgeprune.export.tflite_int8 import Range, choose_ranges, observe_ranges, place_ranges, quantise_model
from edgeprune.files import digest_file, write_atomic
from edgeprune.learning import EpochRecord, Unfinished
from edgeprune.pipeline.conversions import Conversions
from edgeprune.pipeline.records import load_record, save_record
from edgeprune.pipeline.settings import augmentation
from edgeprune.pipeline.story import epoch_line
from edgeprune.pipeline.workspace import Reporter
from edgeprune.preprocess import normalise_pixels, plan_integer_preprocess
from edgeprune.quantise.condition import Conditioned, condition_network
from edgeprune.quantise.recover_int8 import recover_int8
from edgeprune.recipe import Recipe
from edgeprune.results import Accuracy
from edgeprune.verify.litert import dequantise, read_io, run_litert

WEIGHTS = "int8.safetensors"
RECORD = "int8.json"
_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One int8 file on the validation split, in LiteRT's reference kernels, which TFLite Micro equals.

    Attributes:
        method: how its ranges were chosen.
        accuracy: on validation.
        agreement: share of images where it decides as the float network.
        sqnr_db: signal to quantisation noise of its logits against the float network's, decibels.
    """

    method: str
    accuracy: Accuracy
    agreement: float
    sqnr_db: float

    def __str__(self) -> str:
        return f"{self.accuracy.value:.4f} ({self.agreement:.4f} decide as float, {self.sqnr_db:.1f} dB)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Record:
    """How an int8 file was chosen; stands beside the level.

    Attributes:
        key: digest of everything that decides it.
        weights: digest of the trained weights; empty when no training was needed.
        method: of the ranges, or ``trained``.
        ranges: by place, when they were trained with.
        float_accuracy: of the float network on validation.
        dead_units, equalised_channels, floored_rows, parts: see ``quantise.Conditioned``.
        trials: every calibration that was compared.
        epochs: of quantisation-aware recovery.
    """

    key: str
    weights: str
    method: str
    ranges: dict[str, tuple[float, float]]
    float_accuracy: Accuracy
    dead_units: int
    equalised_channels: int
    floored_rows: int
    parts: tuple[int, ...]
    trials: tuple[Trial, ...]
    epochs: tuple[EpochRecord, ...]

    @property
    def remedies(self) -> tuple[str, ...]:
        """What was done and what it gave, for a person to read."""
        calibrated = [trial for trial in self.trials if trial.method != "trained"]
        lines = [
            f"{self.dead_units} dead units removed, {self.equalised_channels} channels rescaled between layers, "
            f"{self.floored_rows} vanished rows floored",
            *([f"widest hard-swish in parts of {', '.join(map(str, self.parts))} channels"] if self.parts else []),
            f"float: {self.float_accuracy.value:.4f} on validation (n={self.float_accuracy.n})",
            *(f"calibration {trial.method}: {trial}" for trial in calibrated),
        ]
        trained = [trial for trial in self.trials if trial.method == "trained"]
        lines += [f"{len(self.epochs)} epochs of quantisation-aware recovery: {trial}" for trial in trained]
        return tuple(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Network:
    """A network that is ready to become int8 files.

    Attributes:
        network: computes what the level computes, with conditioned weights, or is trained for int8.
        images: train images, normalised, shape (n, 3, height, width), shuffled: ranges are taken from them.
        record: how it was chosen.
    """

    network: nn.Module
    images: np.ndarray
    record: Int8Record

    def choose_ranges(self, model: FloatModel) -> dict[str, Range]:
        """The ranges of every tensor of a converted network, as they were chosen."""
        statistics = observe_ranges(model.content, _nhwc(self.images))
        if self.record.method != "trained":
            return choose_ranges(model.content, statistics, self.record.method)
        return place_ranges(
            model, self.record.ranges, otherwise=choose_ranges(model.content, statistics, self._fallback)
        )

    @property
    def _fallback(self) -> str:
        return best_trial([trial for trial in self.record.trials if trial.method != "trained"]).method


def choose_int8(
    recipe: Recipe,
    dataset: Dataset,
    network: nn.Module,
    conversions: Conversions,
    reporter: Reporter,
    *,
    folder: Path,
    key: str,
    title: str,
    unfinished: Unfinished,
) -> Int8Network:
    """Find the int8 version of a network that does best on validation.

    Args:
        recipe: its ``quantise`` section, data and augmentation.
        dataset: ranges and training come from ``train``, the choice from ``val``.
        network: float; not changed.
        conversions: of this network; what is converted here need not be converted again.
        folder: where the outcome is kept.
        reporter: is told what goes on.
        key: digest of weights, settings and versions; an outcome of the same key is used again.
        title: names the level.
        unfinished: where training keeps how far it is.

    Raises:
        EdgepruneError: the network cannot be traced or converted.
    """
    settings = recipe.quantise
    mean, std = recipe.data.mean, recipe.data.std
    images = normalise_pixels(sample_images(dataset.train.labelled(), settings.images, recipe.seed), mean, std)
    ready = condition_network(network, torch.from_numpy(images), equalise=settings.equalise, split=settings.split_peak)
    kept = load_record(folder / RECORD, Int8Record)
    if kept is not None and kept.key == key and _has_weights(folder, kept):
        if kept.weights:
            ready.network.load_state_dict(load_file(folder / WEIGHTS))
        return Int8Network(network=ready.network, images=images, record=kept)
    wanted = predict_logits(network, dataset.val, mean=mean, std=std)
    labels = np.asarray(dataset.val.labels)
    float_accuracy = Accuracy(correct=int((wanted.argmax(axis=1) == labels).sum()), n=len(labels))
    judge = partial(_judge, dataset=dataset, mean=mean, std=std, wanted=wanted)
    methods = METHODS if settings.calibration == "auto" else (settings.calibration,)
    with reporter.track(f"calibrating {title}") as progress:
        trials = _try_methods(
            ready.network,
            images,
            methods=methods,
            judge=judge,
            conversions=conversions,
            progress=progress,
        )
    best = best_trial(trials)
    record = Int8Record(
        key=key,
        weights="",
        method=best.method,
        ranges={},
        float_accuracy=float_accuracy,
        dead_units=ready.dead_units,
        equalised_channels=ready.equalised_channels,
        floored_rows=ready.floored_rows,
        parts=ready.parts,
        trials=tuple(trials),
        epochs=(),
    )
    chosen = ready.network
    lost = float_accuracy.value - best.accuracy.value
    # Decisions that change for the better today change for the worse on other images.
    short = lost > settings.max_drop or 1 - best.agreement > 2 * settings.max_drop
    if settings.qat == "always" or (settings.qat == "auto" and short):
        reporter.say(f"{title}: int8 {best} against float {float_accuracy.value:.4f} on validation: training for int8")
        chosen, record = _train(
            recipe,
            dataset,
            ready=ready,
            images=images,
            folder=folder,
            reporter=reporter,
            conversions=conversions,
            judge=judge,
            record=record,
            title=title,
            unfinished=unfinished,
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_record(folder / RECORD, record)
    unfinished.clear()
    return Int8Network(network=chosen, images=images, record=record)


def _has_weights(folder: Path, record: Int8Record) -> bool:
    path = folder / WEIGHTS
    return not record.weights or (path.is_file() and digest_file(path) == record.weights)


def _try_methods(
    network: nn.Module,
    images: np.ndarray,
    *,
    methods: tuple[str, ...],
    judge: Callable[[str, bytes], Trial],
    conversions: Conversions,
    progress: Callable[[int, int], None],
) -> list[Trial]:
    model = conversions.convert(network)
    progress(1, len(methods) + 2)
    statistics = observe_ranges(model.content, _nhwc(images))
    progress(2, len(methods) + 2)
    contents = {
        method: quantise_model(model.content, choose_ranges(model.content, statistics, method)) for method in methods
    }
    trials = []
    # LiteRT lets go of Python's lock while it computes.
    with ThreadPoolExecutor(_THREADS) as pool:
        for done, trial in enumerate(pool.map(judge, contents.keys(), contents.values())):
            trials.append(trial)
            progress(done + 3, len(methods) + 2)
    return trials


def _train(
    recipe: Recipe,
    dataset: Dataset,
    *,
    ready: Conditioned,
    images: np.ndarray,
    folder: Path,
    reporter: Reporter,
    conversions: Conversions,
    judge: Callable[[str, bytes], Trial],
    record: Int8Record,
    title: str,
    unfinished: Unfinished,
) -> tuple[nn.Module, Int8Record]:
    settings = recipe.quantise
    # Ranges that keep the logits, whatever they happen to decide on few images.
    method = max(record.trials, key=lambda trial: trial.sqnr_db).method
    with reporter.track(f"training {title} for int8") as progress:
        fit = recover_int8(
            ready.network,
            images=torch.from_numpy(images),
            method=method,
            dataset=dataset,
            mean=recipe.data.mean,
            std=recipe.data.std,
            epochs=settings.epochs,
            lr=settings.lr,
            batch_size=settings.batch_size,
            augment=augmentation(recipe),
            seed=recipe.seed,
            on_epoch=lambda epoch: reporter.say(epoch_line(f"int8 {title}", epoch, settings.epochs)),
            progress=progress,
            unfinished=unfinished,
        )
    model = conversions.convert(fit.network)
    otherwise = choose_ranges(model.content, observe_ranges(model.content, _nhwc(images)), method)
    trial = judge("trained", quantise_model(model.content, place_ranges(model, fit.ranges, otherwise=otherwise)))
    reporter.say(f"{title}: trained int8 {trial} on validation")
    trials = (*record.trials, trial)
    if best_trial(trials).method != "trained":
        return ready.network, replace(record, trials=trials, epochs=fit.epochs)
    write_atomic(folder / WEIGHTS, save({name: value.contiguous() for name, value in fit.network.state_dict().items()}))
    return fit.network, replace(
        record,
        weights=digest_file(folder / WEIGHTS),
        method="trained",
        ranges=fit.ranges,
        trials=trials,
        epochs=fit.epochs,
    )


def _judge(
    method: str,
    content: bytes,
    *,
    dataset: Dataset,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    wanted: np.ndarray,
) -> Trial:
    file = read_io(content)
    assert file.input is not None
    assert file.output is not None
    inputs = plan_integer_preprocess(mean, std, file.input).apply(np.asarray(dataset.val.images))
    logits = dequantise(run_litert(content, inputs, reference=True), file.output)
    return rate_trial(method, logits, wanted=wanted, labels=np.asarray(dataset.val.labels))


def rate_trial(method: str, logits: np.ndarray, *, wanted: np.ndarray, labels: np.ndarray) -> Trial:
    """An int8 file by its logits on validation; ``wanted`` are the float network's, shape (n, classes)."""
    noise = float(np.square(logits - wanted).sum())
    return Trial(
        method=method,
        accuracy=Accuracy(correct=int((logits.argmax(axis=1) == labels).sum()), n=len(labels)),
        agreement=float((logits.argmax(axis=1) == wanted.argmax(axis=1)).mean()),
        sqnr_db=float(10 * np.log10(np.square(wanted).sum() / max(noise, 1e-12))),
    )


def best_trial(trials: Iterable[Trial]) -> Trial:
    """Who decides most often as float does; between equals, who has the nearest logits. Accuracy would reward luck."""
    return max(trials, key=lambda trial: (trial.agreement, trial.sqnr_db))


def _nhwc(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
