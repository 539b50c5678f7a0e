"""A network as torch.export's graph, from which its cost and its memory are read."""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgeprune.errors import InputError

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def trace_program(network: nn.Module, *, image_size: int) -> "ExportedProgram":
    """Trace a network with one image.

    Args:
        network: in evaluation mode.
        image_size: height and width of the input, pixels.

    Raises:
        InputError: its forward depends on the values in its tensors, or does what torch.export does not know.
    """
    try:
        with _silence(), torch.no_grad():
            return torch.export.export(network, (torch.zeros(1, 3, image_size, image_size),))
    except Exception as error:  # torch.export's own errors share no base class; others are the network's
        lines = str(error).strip().splitlines()
        reason = lines[0].rstrip(".") if lines else type(error).__name__
        raise InputError(
            f"torch.export cannot trace {type(network).__name__}: {reason}.",
            "a forward without an `if`, a loop or an int() that depends on a tensor's values",
        ) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    # Before it fails, torch prints the whole graph so far, and logs more.
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(previous)
