"""How far a fit has come, kept after every epoch, so that a killed one goes on after the last that it finished."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from edgeprune.errors import InputError
from edgeprune.files import digest_file, read_json, write_atomic, write_json
from edgeprune.learning.terms import EpochRecord
from edgeprune.results import as_json

_PROGRESS = "progress.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What a fit has come to.

    Attributes:
        epochs: finished.
        best_epoch: of them, that is kept so far.
        state: what the next epoch depends on, by name.
        best: weights of the best epoch, by name.
    """

    epochs: tuple[EpochRecord, ...]
    best_epoch: int
    state: Mapping[str, Tensor]
    best: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Progress:
    """``progress.json``: who this belongs to, the epochs, and the digest of each file of tensors."""

    key: str
    best_epoch: int
    epochs: tuple[EpochRecord, ...]
    state: str
    best: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """The folder in which one fit keeps how far it has come; nothing in it is unpickled.

    Tensors lie in ``epoch-N.safetensors`` and ``best-N.safetensors``. ``progress.json``, which says which of them
    count, is replaced last: whenever the process is killed, the folder holds one finished epoch, whole.

    Attributes:
        folder: of this fit alone.
        key: digest of everything that decides the result; what another key left here is not gone on from.
        say: is told in a sentence what is gone on from, or why nothing is.
    """

    folder: Path
    key: str
    say: Callable[[str], None]

    def load(self) -> Reached | None:
        """What was reached, or None: nothing yet, by somebody else, or it is damaged."""
        if not (self.folder / _PROGRESS).is_file():
            return None
        try:
            progress = TypeAdapter(_Progress).validate_python(read_json(self.folder / _PROGRESS))
            if progress.key != self.key:
                self.say(f"{self.folder} holds epochs of another recipe, images or version: training starts anew.")
                return None
            names = _names(progress.epochs, progress.best_epoch)
            for name, digest in zip(names, (progress.state, progress.best), strict=True):
                if digest_file(self.folder / name) != digest:
                    raise InputError(f"{name} is not what was written", "training starts anew")
            # Copied out of the mapped file, which is replaced after the next epoch.
            state, best = (
                {key: value.clone() for key, value in load_file(self.folder / name).items()} for name in names
            )
        except (InputError, ValidationError, SafetensorError, OSError) as error:
            reason = error.problem if isinstance(error, InputError) else str(error).splitlines()[0]
            self.say(f"{self.folder} cannot be gone on from: {reason.rstrip('.')}. Training starts anew.")
            return None
        return Reached(epochs=progress.epochs, best_epoch=progress.best_epoch, state=state, best=best)

    def keep(self, reached: Reached) -> None:
        """Keep what was reached, in place of what was before.

        Raises:
            OSError: the disk is full, or the folder cannot be written; what was kept before stays.
        """
        names = _names(reached.epochs, reached.best_epoch)
        digests = []
        for name, tensors in zip(names, (reached.state, reached.best), strict=True):
            # An earlier best epoch's weights are there already, unless another process took them for its own.
            known = tensors is reached.best and reached.best_epoch < len(reached.epochs)
            if not (known and (self.folder / name).is_file()):
                write_atomic(self.folder / name, save({key: _plain(value) for key, value in tensors.items()}))
            digests.append(digest_file(self.folder / name))
        progress = _Progress(
            key=self.key, best_epoch=reached.best_epoch, epochs=reached.epochs, state=digests[0], best=digests[1]
        )
        write_json(self.folder / _PROGRESS, as_json(progress))
        for path in self.folder.glob("*.safetensors"):
            if path.name not in names:
                path.unlink()

    def clear(self) -> None:
        """Forget it all: the fit is finished and kept, or starts anew."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _names(epochs: tuple[EpochRecord, ...], best_epoch: int) -> tuple[str, str]:
    return f"epoch-{len(epochs)}.safetensors", f"best-{best_epoch}.safetensors"


def _plain(tensor: Tensor) -> Tensor:
    """A copy of its own: the format knows no strides, and refuses tensors that share memory."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
