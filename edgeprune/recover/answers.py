"""A teacher's outputs, remembered: an image that comes again as it was is not put to the teacher again."""

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgeprune.errors import InputError
from edgeprune.learning import Augment

# Four different shades, so that each of a square's eight orientations shows, and so does anything else.
_PROBE = torch.tensor([[0.2, 0.4], [0.6, 0.8]])
_ORIENTATIONS = torch.stack(
    [torch.rot90(side, turns) for side in (_PROBE, _PROBE.flip(1)) for turns in range(4)]
).flatten(1)


class RememberedAnswers:
    """A teacher's logits by image and orientation, asked for when they are first needed.

    The augmentation may flip and turn, nothing else: an image then comes in at most eight forms. Which one it is, is
    read off four pixels that go the same way with the same random numbers.

    Args:
        teacher: in evaluation mode.
        images: how many the training split has; takes 32 bytes an image and class when all forms come.
        augment: of the training batches, or None.
    """

    def __init__(self, teacher: nn.Module, *, images: int, augment: Augment | None) -> None:
        self._teacher, self._images, self._augment = teacher, images, augment
        self._known = torch.zeros(len(_ORIENTATIONS) * images, dtype=torch.bool)
        self._logits: Tensor | None = None
        # Batches may be made some steps before they are answered, in the same order.
        self._orientations: deque[Tensor] = deque()
        self.asked = 0

    @property
    def augment(self) -> Augment | None:
        """The augmentation, which must be applied through this to be noticed."""
        return self._notice if self._augment is not None else None

    def answer(self, images: Tensor, rows: Tensor) -> Tensor:
        """Logits of the earliest batch that was augmented and not yet answered, shape (n, classes).

        Args:
            images: augmented and normalised, shape (n, 3, height, width), on the teacher's device.
            rows: positions in the training split, shape (n,), on the CPU.
        """
        keys = rows if self._augment is None else self._orientations.popleft() * self._images + rows
        new = ~self._known[keys]
        if new.any():
            asked = images[new].contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                found = self._teacher(asked).float().cpu().clone()
            if self._logits is None:
                # Memory that is never written is never taken.
                self._logits = torch.empty(len(self._known), found.shape[1])
            self._logits[keys[new]] = found
            self._known[keys[new]] = True
            self.asked += len(found)
        assert self._logits is not None
        return self._logits[keys].to(images.device, non_blocking=True)

    def state(self) -> dict[str, Tensor]:
        """What is remembered: an answer that is asked for anew may differ in its last bits."""
        return {"known": self._known} if self._logits is None else {"known": self._known, "logits": self._logits}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Remember what another one did."""
        self._known, self._logits = state["known"], state.get("logits")

    def _notice(self, images: Tensor, generator: torch.Generator) -> Tensor:
        assert self._augment is not None
        same_draws = torch.Generator()
        same_draws.set_state(generator.get_state())
        probes = self._augment(_PROBE.expand(len(images), 3, 2, 2), same_draws)[:, 0].flatten(1)
        matches = (probes[:, None] == _ORIENTATIONS).all(dim=2)
        if not matches.any(dim=1).all():
            raise InputError(
                "The augmentation changes more of an image than its orientation, so a teacher's answer to it cannot be "
                "used again.",
                "cache_teacher: false, or only flips and quarter turns in augment",
            )
        self._orientations.append(matches.int().argmax(dim=1))
        return self._augment(images, generator)
