"""Several processes that work on one fit: what they add up, and how the first tells the others what comes next.

A process alone is a team of one, for which everything here is the identity: there is one way through the code. In a
team, as ``torchrun`` starts it, rank 0 leads: it alone decides, speaks and writes files; the others wait to be told.
torch.distributed is imported only where there are others.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from edgeprune.errors import EdgepruneError, InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

# A process that lost another one waits this long. Between steps of a fit all have the same to do, so that more than a
# fraction of a step means that somebody is gone.
_TIMEOUT_SECONDS = 90
_POLL_SECONDS = 0.05
_DEVICES = ("cuda", "mps", "cpu")
_END = "end"
_FAILED = "failed"


class TeamBrokenError(EdgepruneError):
    """Another process of the team ended, or does not answer (exit code 1)."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, "the same command: training goes on after the last finished epoch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """The processes that share the work of a fit, as one of them sees it.

    Attributes:
        rank: of this process; 0 leads.
        size: how many there are.
        device: what this process computes on, in torch's words.
        bfloat16: forward passes of training compute in it; weights stay float32.
        compiler: backend of ``torch.compile`` for training steps; empty: they run as they are.
        post: where the leader leaves word; None in a team of one.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    bfloat16: bool = False
    compiler: str = ""
    post: Any = field(default=None, repr=False, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this process decides, speaks and writes."""
        return self.rank == 0

    def add(self, *tensors: "Tensor") -> None:
        """Replace each tensor by its sum over all processes."""
        if self.size > 1:
            import torch.distributed as dist

            with self._noticing_loss():
                for tensor in tensors:
                    dist.all_reduce(tensor)

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums of numbers over all processes."""
        if self.size == 1:
            return list(values)
        import torch

        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        self.add(sums)
        return sums.tolist()

    def copy_leader(self, tensors: Iterable["Tensor"]) -> None:
        """Replace each tensor by the leader's."""
        if self.size > 1:
            import torch.distributed as dist

            with self._noticing_loss():
                for tensor in tensors:
                    # Only plain memory is sent, and a convolution's weights may lie channels last.
                    plain = tensor.contiguous()
                    dist.broadcast(plain, src=0)
                    tensor.copy_(plain)

    def average(self, tensors: Iterable["Tensor"], *, share: float) -> None:
        """Replace each tensor by its weighted mean over all processes.

        Args:
            tensors: float, of the same shapes in every process. They travel as one, which costs one latency.
            share: weight of this process; all of them sum to 1.
        """
        if self.size > 1:
            import torch

            kept = list(tensors)
            if not kept:  # as of a network without BatchNorm
                return
            flat = torch.cat([tensor.reshape(-1) for tensor in kept]).mul_(share)
            self.add(flat)
            for tensor, mean in zip(kept, torch.split(flat, [tensor.numel() for tensor in kept]), strict=True):
                tensor.copy_(mean.view(tensor.shape))

    def average_gradients(self, network: "nn.Module", *, share: float) -> None:
        """Give all processes the gradient of the whole batch; a parameter without one keeps none.

        Args:
            network: after its backward pass, the same in every process.
            share: of the batch, that this process had.
        """
        if self.size > 1:
            self.average(
                [parameter.grad for parameter in network.parameters() if parameter.grad is not None], share=share
            )

    def require_equal(self, number: int, *, problem: str, remedy: str) -> None:
        """Raise EdgepruneError unless all processes have the same number."""
        if self.size > 1 and self.total([float(number)])[0] != number * self.size:
            raise EdgepruneError(problem, remedy)

    def tell(self, **job: Any) -> None:
        """Tell the others what comes next, as JSON values; all of them hear all of it, in this order."""
        if self.size > 1:
            number = self.post.add("told", 1)
            self.post.set(f"job-{number}", json.dumps(job))

    def meet(self) -> None:
        """Wait until all processes are here, however long another one takes; what follows waits for none of them."""
        if self.size > 1:
            times = self.post.add(f"met-{self.rank}", 1)
            for rank in range(self.size):
                self._until(partial(self._has_come, rank, times))

    def jobs(self) -> Iterator[dict[str, Any]]:
        """What the leader tells, until it tells the end."""
        number = 0
        while True:
            number += 1
            self._until(partial(self.post.check, [f"job-{number}"]))
            job = json.loads(self.post.get(f"job-{number}"))
            if job.get("kind") == _END:
                return
            yield job

    def tell_failure(self) -> None:
        """Tell the others that this process says why it ends."""
        # It may be the post that failed.
        with suppress(RuntimeError):
            self.post.set(_FAILED, "")

    def has_failed(self) -> bool:
        """Whether a process told so."""
        with suppress(RuntimeError):
            return bool(self.post.check([_FAILED]))
        return False

    def _has_come(self, rank: int, times: int) -> bool:
        return bool(self.post.add(f"met-{rank}", 0) >= times)

    def _until(self, happened: Callable[[], bool]) -> None:
        # Asked again and again: the leader may be busy for hours, and the store's own wait cannot be interrupted.
        with self._noticing_loss():
            while not happened():
                time.sleep(_POLL_SECONDS)

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise TeamBrokenError(
                f"One of the {self.size} processes of this run ended, or did not answer for {_TIMEOUT_SECONDS} s."
            ) from error


ALONE = Team()


def is_follower() -> bool:
    """Whether ``torchrun`` started this process, and another one leads."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0"


@contextmanager
def join_team() -> Iterator[Team]:
    """The team that ``torchrun`` started this process for, or one of its own; on EDGEPRUNE_DEVICE or the best device.

    EDGEPRUNE_COMPILE names a backend of ``torch.compile`` for training steps, such as ``inductor``.

    Raises:
        InputError: EDGEPRUNE_DEVICE names no device that is here, EDGEPRUNE_COMPILE no backend.
        TeamBrokenError: another process ended, or never came.
    """
    device, compiler, size = _choose_device(), _choose_compiler(), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(device=device, bfloat16=device.startswith("cuda"), compiler=compiler)
        return
    if device == "mps":
        raise InputError("Several processes cannot share Apple's GPU.", "one process, or EDGEPRUNE_DEVICE=cpu")
    import torch
    import torch.distributed as dist
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=_TIMEOUT_SECONDS)
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        backend = "nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, store=PrefixStore("sums", store), rank=rank, world_size=size, timeout=timeout)
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TeamBrokenError(
            f"The {size} processes of this run did not find one another: {lines[0].rstrip('.')}."
        ) from error
    # torchrun ends the others so when one has failed. Not before: torch's waiting for all to come hears no handler.
    signal.signal(signal.SIGTERM, lambda *_: _stop(size))
    team = Team(
        rank=rank,
        size=size,
        device=device,
        bfloat16=device.startswith("cuda"),
        compiler=compiler,
        post=PrefixStore("told", store),
    )
    try:
        yield team
    except BaseException:
        if team.leads:
            team.tell_failure()
        raise
    if team.leads:
        team.tell(kind=_END)
    dist.destroy_process_group()


def _choose_device() -> str:
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    asked = os.environ.get("EDGEPRUNE_DEVICE", "")
    if not asked:
        return next(name for name in _DEVICES if here[name])
    if asked not in here:
        raise InputError(f"EDGEPRUNE_DEVICE={asked} is none of {', '.join(_DEVICES)}.", "EDGEPRUNE_DEVICE=cpu")
    if not here[asked]:
        raise InputError(f"EDGEPRUNE_DEVICE={asked}, and torch finds no such device here.", "EDGEPRUNE_DEVICE=cpu")
    return asked


def _choose_compiler() -> str:
    asked = os.environ.get("EDGEPRUNE_COMPILE", "")
    if not asked:
        return ""
    import torch

    if asked not in torch.compiler.list_backends(exclude_tags=()):
        raise InputError(
            f"EDGEPRUNE_COMPILE={asked} is no backend of torch.compile here.",
            f"one of {', '.join(torch.compiler.list_backends())}; or unset it",
        )
    return asked


def _stop(size: int) -> None:
    # A second signal must not interrupt the telling of the first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise TeamBrokenError(f"This run was told to stop: one of its {size} processes has ended, or somebody stopped it.")
