"""A seeded training loop that keeps the best epoch by validation accuracy."""

import copy
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgeprune.data import PackedSplit
from edgeprune.distributed import ALONE, Team
from edgeprune.errors import InputError
from edgeprune.evaluation import DIVERGED, evaluate_network
from edgeprune.learning.averaging import WeightAverage
from edgeprune.learning.terms import EpochRecord, Fit, FitSettings, Loss, Memory
from edgeprune.learning.trainer import Trainer
from edgeprune.learning.unfinished import Reached, Unfinished
from edgeprune.learning.watching import watch_outputs


def fit_network(
    network: nn.Module,
    *,
    train: PackedSplit,
    val: PackedSplit,
    loss: Loss,
    settings: FitSettings,
    watch: Sequence[str] = (),
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    memory: Memory | None = None,
    unfinished: Unfinished | None = None,
    team: Team = ALONE,
) -> Fit:
    """Train a copy of a network with AdamW and keep its best epoch by validation accuracy.

    Args:
        network: on the CPU; not changed.
        train, val: splits to learn from and to select on.
        loss: what is minimised; what it computes with is on the team's device.
        settings: everything else that decides the result.
        watch: names of modules whose outputs the loss reads.
        on_epoch: called after each epoch.
        progress: called with images done and images in all.
        memory: of the loss, kept with each epoch.
        unfinished: where each epoch is kept, and gone on from, to the same weights as without an interruption; None
            keeps nothing. It is the caller's to clear, once the result is safe.
        team: shares every batch, of ``settings.batch_size`` images in all, and the validation images.

    Returns:
        The kept epoch's network on the CPU, in evaluation mode, and all epochs.

    Raises:
        InputError: a batch or the validation split is too small to be shared.
        EdgepruneError: the processes of the team do not see the same, or one of them is gone.

    Source:
        Loshchilov, Hutter 2019, "Decoupled Weight Decay Regularization".
    """
    _require_enough(team, settings, train, val)
    trained = _prepare(network, settings, team)
    team.meet()
    team.copy_leader(trained.state_dict().values())
    average = WeightAverage(trained, settings.ema) if settings.ema else None
    judged = average.network if average is not None else trained
    records: list[EpochRecord] = []
    best: tuple[float, int, dict[str, Tensor]] = (-1.0, 0, {})
    devices = [team.device] if team.device.startswith("cuda") else []
    with torch.random.fork_rng(devices), watch_outputs(trained, watch) as outputs:
        torch.manual_seed(settings.seed)  # dropout and mixtures draw from the global generator
        trainer = Trainer(
            trained, train=train, loss=loss, settings=settings, average=average, memory=memory, outputs=outputs,
            progress=progress, team=team,
        )  # fmt: skip
        reached = _go_on(trainer, settings, unfinished, team)
        if reached is not None:
            records += reached.epochs
            best = (records[reached.best_epoch - 1].val_accuracy, reached.best_epoch, dict(reached.best))
        while len(records) < settings.epochs and not _ran_out(settings, records, best[1]):
            epoch, began = len(records) + 1, time.perf_counter()
            train_loss, train_accuracy = trainer.run_epoch(epoch)
            _settle(team, trained, judged)
            evaluation = evaluate_network(judged, val, mean=settings.mean, std=settings.std, team=team)
            record = EpochRecord(
                epoch=epoch,
                lr=settings.lr((epoch - 1) / settings.epochs),
                train_loss=train_loss if math.isfinite(train_loss) else DIVERGED,
                train_accuracy=train_accuracy,
                val_loss=evaluation.loss,
                val_accuracy=evaluation.accuracy.value,
                seconds=time.perf_counter() - began,
            )
            records.append(record)
            if record.val_accuracy > best[0] or settings.keep == "last":
                best = (record.val_accuracy, epoch, copy.deepcopy(judged.state_dict()))
            if unfinished is not None and team.leads:
                unfinished.keep(Reached(epochs=tuple(records), best_epoch=best[1], state=trainer.state(), best=best[2]))
            if on_epoch is not None:
                on_epoch(record)
    kept = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kept.load_state_dict(best[2])
    return Fit(
        network=kept.eval(),
        best_epoch=best[1],
        epochs=tuple(records),
        resumed_after=len(reached.epochs) if reached is not None else 0,
    )


def _prepare(network: nn.Module, settings: FitSettings, team: Team) -> nn.Module:
    """A copy to train, on the team's device."""
    trained = copy.deepcopy(network)
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = settings.bn_momentum
    if team.size > 1 and team.device.startswith("cuda"):
        # It exists on GPUs only. Elsewhere each process normalises by its own part of the batch while training.
        trained = nn.SyncBatchNorm.convert_sync_batchnorm(trained)  # type: ignore[no-untyped-call]
    return trained.to(team.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _go_on(trainer: Trainer, settings: FitSettings, unfinished: Unfinished | None, team: Team) -> Reached | None:
    if unfinished is None:
        return None
    reached = unfinished.load()
    team.require_equal(
        len(reached.epochs) if reached is not None else 0,
        problem=f"The processes of this run find different things in {unfinished.folder}.",
        remedy="one folder that all of them share, as the working directory",
    )
    if reached is None:
        if team.leads:
            unfinished.clear()
        return None
    trainer.restore(reached.state)
    unfinished.say(f"Training goes on after epoch {len(reached.epochs)} of {settings.epochs}.")
    return reached


def _ran_out(settings: FitSettings, records: Sequence[EpochRecord], best_epoch: int) -> bool:
    return bool(records) and settings.patience is not None and len(records) - best_epoch >= settings.patience


def _settle(team: Team, *networks: nn.Module) -> None:
    """One network in all processes: BatchNorm's statistics are those of all parts, rounding is the leader's."""
    for network in dict.fromkeys(networks):
        team.average([buffer for buffer in network.buffers() if buffer.is_floating_point()], share=1 / team.size)
        team.copy_leader(parameter.detach() for parameter in network.parameters())


def _require_enough(team: Team, settings: FitSettings, train: PackedSplit, val: PackedSplit) -> None:
    # Two images a process: BatchNorm cannot train on one.
    if team.size > 1 and (min(settings.batch_size, len(train.labels)) < 2 * team.size or len(val.labels) < team.size):
        raise InputError(
            f"{team.size} processes cannot share batches of {settings.batch_size} images ({len(train.labels):,} to "
            f"learn from, {len(val.labels):,} to validate on): each needs two of a batch.",
            "fewer processes, or a larger batch_size",
        )
