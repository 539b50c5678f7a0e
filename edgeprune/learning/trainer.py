"""The steps of one fit: batches made ahead, forward and backward passes, the optimiser, and all of it as tensors."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.data import ImagesByRow, PackedSplit, iterate_batches, run_ahead
from edgeprune.distributed import Team
from edgeprune.learning.averaging import WeightAverage
from edgeprune.learning.mixing import Mixture, mix_images, paste_images
from edgeprune.learning.targets import is_plainly_labelled, label_shares, rows_of_epoch
from edgeprune.learning.terms import FitSettings, Loss, Memory, Step

_SEEDS = 2**62


@dataclass(frozen=True, slots=True)
class _Batch:
    """Images, their rows, what was pasted onto them, and the order that they are mixed in; None where nothing is."""

    images: Tensor
    rows: Tensor
    pasted: Mixture | None
    order: Tensor | None


class Trainer:
    """One fit's network, optimiser and random numbers, epoch by epoch.

    Args:
        network: on the team's device; is trained in place.
        train: images to learn from.
        loss: what is minimised.
        settings: what decides the result.
        average: follows the network, or None.
        memory: of the loss, or None.
        outputs: of watched modules, for the loss.
        progress: called with images done and images in all.
        team: shares every batch.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        train: PackedSplit,
        loss: Loss,
        settings: FitSettings,
        average: WeightAverage | None,
        memory: Memory | None,
        outputs: Mapping[str, Tensor],
        progress: Callable[[int, int], None] | None,
        team: Team,
    ) -> None:
        self._network, self._loss, self._settings, self._team = network, loss, settings, team
        # Shares the weights; what is saved, averaged and judged stays the network itself.
        self._forward = torch.compile(network, backend=team.compiler) if team.compiler else network
        self._average, self._memory, self._outputs, self._progress = average, memory, outputs, progress
        self._labels = torch.from_numpy(np.array(train.labels))
        self._split = train
        self._shares: Tensor | None = None
        self._mixes = bool(settings.mixup or settings.paste or not is_plainly_labelled(train))
        rows = rows_of_epoch(train.labels, settings.labelled_share)
        # Batches then come with their rows, which say more than their labels.
        self._train = replace(train, labels=rows, images=ImagesByRow(train.images, rows))
        self._batch_size = min(settings.batch_size, len(rows))
        self._steps = len(rows) // self._batch_size
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._optimiser = torch.optim.AdamW(_parameter_groups(network, settings.weight_decay), lr=settings.lr(0.0))

    def run_epoch(self, epoch: int) -> tuple[float, float]:
        """Go through the images once; mean loss and accuracy over the whole team."""
        settings, steps, batch_size = self._settings, self._steps, self._batch_size
        self._network.train()
        # Read once an epoch: a GPU that is asked after every step waits for the answer instead of computing.
        losses: list[Tensor] = []
        right: list[Tensor] = []
        labelled = 0
        for step, batch in enumerate(run_ahead(self._batches(self._own_draws(epoch)))):
            for group in self._optimiser.param_groups:
                group["lr"] = settings.lr((epoch - 1 + step / steps) / settings.epochs)
            labels = self._labels[batch.rows]
            value, logits = self._take_step(batch, labels)
            losses.append(value)
            right.append((logits.argmax(dim=1) == labels.to(logits.device, non_blocking=True)).sum())
            labelled += int((labels >= 0).sum())
            if self._progress is not None:
                self._progress(((epoch - 1) * steps + step + 1) * batch_size, settings.epochs * steps * batch_size)
        loss_sum = sum(value * len(labels) for value in torch.stack(losses).tolist())
        loss_sum, correct, judged = self._team.total([loss_sum, float(torch.stack(right).sum()), labelled])
        return loss_sum / (steps * batch_size), correct / max(judged, 1)

    def state(self) -> dict[str, Tensor]:
        """All that the next epoch depends on, by name."""
        state = {f"network.{name}": value for name, value in self._network.state_dict().items()}
        if self._average is not None:
            state |= {f"average.{name}": value for name, value in self._average.state().items()}
        if self._memory is not None:
            state |= {f"memory.{name}": value for name, value in self._memory.state().items()}
        for index, moments in self._optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
        state["draws.order"] = self._generator.get_state()
        state["draws.network"] = torch.random.get_rng_state()
        if self._team.device != "cpu":
            state["draws.device"] = torch.get_device_module(self._team.device).get_rng_state()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state of the same fit."""
        self._network.load_state_dict(_below("network.", state))
        if self._average is not None:
            self._average.restore(_below("average.", state))
        if self._memory is not None:
            self._memory.restore(_below("memory.", state))
        parameters = [parameter for group in self._optimiser.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _below("optimiser.", state).items():
            index, _, name = key.partition(".")
            # In the order in memory that the optimiser itself would have chosen.
            like = parameters[int(index)].detach() if value.ndim else value
            moments.setdefault(int(index), {})[name] = torch.empty_like(like).copy_(value)
        self._optimiser.load_state_dict(
            {"state": moments, "param_groups": self._optimiser.state_dict()["param_groups"]}
        )
        self._generator.set_state(state["draws.order"])
        torch.random.set_rng_state(state["draws.network"])
        if self._team.device != "cpu" and "draws.device" in state:
            torch.get_device_module(self._team.device).set_rng_state(state["draws.device"])

    def _own_draws(self, epoch: int) -> torch.Generator:
        """What this process draws augmentation from: all of a team draw one order, each its own changes and dropout."""
        settings, team = self._settings, self._team
        if team.size == 1:
            return self._generator
        seed = ((settings.seed * settings.epochs + epoch) * team.size + team.rank) % _SEEDS
        torch.manual_seed(seed)
        return torch.Generator().manual_seed(seed)

    def _batches(self, own: torch.Generator) -> Iterator[_Batch]:
        """The batches of an epoch. All numbers of generators are drawn here, so that it can be run ahead."""
        settings, team = self._settings, self._team
        batches = iterate_batches(
            self._train,
            batch_size=self._batch_size,
            mean=settings.mean,
            std=settings.std,
            generator=self._generator,
            augment=settings.augment,
            augment_generator=own,
            drop_last=True,
            part=(team.rank, team.size),
            device=team.device,
        )
        for images, rows in batches:
            pasted = paste_images(images, fraction=settings.paste, generator=own) if settings.paste else None
            order = torch.randperm(len(images), generator=own) if settings.mixup else None
            yield _Batch(images if pasted is None else pasted.images, rows, pasted, order)

    def _take_step(self, batch: _Batch, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Learn from one batch; its loss and logits."""
        images, device = batch.images, self._team.device
        mixtures = [batch.pasted] if batch.pasted is not None else []
        if batch.order is not None:
            mixtures.append(mix_images(images, batch.order, alpha=self._settings.mixup))
            images = mixtures[-1].images
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=self._team.bfloat16):
            logits = self._forward(images).float()
            wanted = labels
            if self._mixes:
                wanted = self._shares_of(logits.shape[1])[batch.rows]
                for mixture in mixtures:
                    wanted = mixture.mix(wanted)
            value = self._loss(
                Step(
                    images=images,
                    rows=batch.rows,
                    labels=wanted.to(device, non_blocking=True),
                    logits=logits,
                    outputs=self._outputs,
                )
            )
        self._optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        self._team.average_gradients(self._network, share=len(labels) / self._batch_size)
        self._optimiser.step()
        if self._average is not None:
            self._average.update()
        return value.detach(), logits.detach()

    def _shares_of(self, classes: int) -> Tensor:
        if self._shares is None:
            self._shares = label_shares(self._split, classes)
        return self._shares


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _parameter_groups(network: nn.Module, weight_decay: float) -> Iterator[dict[str, object]]:
    # Decay pulls BatchNorm scales and biases to zero, which regularises nothing and kills channels.
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    yield {"params": decayed, "weight_decay": weight_decay}
    yield {"params": others, "weight_decay": 0.0}
