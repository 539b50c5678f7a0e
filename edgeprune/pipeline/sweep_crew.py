"""The workers of a sweep on Ray: a cluster of this machine alone, or one that is there.

Ray's core is used and not its library Tune, which keeps the state of a sweep in pickles and cannot rebuild that of ASHA
from results.
"""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import EdgepruneError, InputError, MissingExtraError
from edgeprune.pipeline.sweep_one_trial import Event, Order
from edgeprune.pipeline.sweep_worker import TrialWorker

# Of a Unix socket's path, beside what Ray adds to its folder.
_LONGEST_FOLDER = 40
# Results come as files; what is sent through Ray is small. Less than this it refuses.
_OBJECT_STORE_BYTES = 80 * 1024 * 1024
_ANSWER_SECONDS = 5
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial without a GPU of its own sees none
    "RAY_DISABLE_IMPORT_WARNING": "1",
    # As edgeprune's command line has it: workers are processes of their own.
    "GOMP_SPINCOUNT": "30000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A worker ended before its trial."""

    reason: str


class Crew:
    """Workers, each busy with one trial or idle.

    Args:
        ray: the module, started.
        cpus, gpus: of a worker.
    """

    def __init__(self, ray: Any, *, cpus: int, gpus: float) -> None:
        self._ray = ray
        self._cpus, self._gpus = cpus, gpus
        self._kind = ray.remote(TrialWorker).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
        self._busy: dict[Any, tuple[str, Any]] = {}  # awaited event to trial and worker
        self._asking: dict[str, Any] = {}  # trial to a worker that waits for an answer
        self._idle: list[Any] = []

    @property
    def busy(self) -> int:
        """Trials that are running."""
        return len(self._busy) + len(self._asking)

    @property
    def room(self) -> int:
        """Workers that the machines have room for; a cluster may grow and shrink."""
        room = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                there = node["Resources"]
                fitting = int(there.get("CPU", 0.0) / self._cpus)
                room += min(fitting, int(there.get("GPU", 0.0) / self._gpus)) if self._gpus else fitting
        return room

    def begin(self, order: Order) -> None:
        """Give a trial to an idle worker, or to a new one."""
        worker = self._idle.pop() if self._idle else self._kind.remote(self._cpus)
        worker.begin.remote(order)
        self._await(order.recipe.name, worker)

    def wait(self) -> tuple[str, Event | Death]:
        """Wait until something happens to a trial; a level asks for an answer."""
        (awaited,), _ = self._ray.wait(list(self._busy), num_returns=1)
        trial, worker = self._busy.pop(awaited)
        try:
            event: Event = self._ray.get(awaited)
        except self._ray.exceptions.RayActorError as error:
            return trial, Death(reason=str(error).partition("\n")[0])
        if event.kind == "end":
            self._idle.append(worker)
        else:
            self._asking[trial] = worker
        return trial, event

    def answer(self, trial: str, *, go_on: bool) -> None:
        """Let a trial go on after a level, or stop."""
        worker = self._asking.pop(trial)
        worker.answer.remote(go_on)
        self._await(trial, worker)

    def _await(self, trial: str, worker: Any) -> None:
        self._busy[worker.next_event.remote()] = (trial, worker)


@contextmanager
def open_crew(*, address: str | None, cpus: int, gpus: float) -> Iterator[Crew]:
    """A crew, on a cluster that ends with the block or on one that was there before and stays.

    Args:
        address: of a cluster, such as ``10.0.0.1:6379``, ``ray://host:10001`` or ``auto``; None for this machine alone.
        cpus, gpus: of a worker.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: no cluster answers, or none of its machines has room for a worker.
    """
    # All of it is read when Ray is loaded.
    os.environ.update({key: os.environ.get(key, value) for key, value in _QUIET.items()})
    if address is None:
        # Nobody else gets in, and nothing is written to the home folder, where Ray would keep its token.
        os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError("edgeprune sweep", "cluster", "ray") from None
    quiet: dict[str, Any] = {"logging_level": "CRITICAL", "log_to_driver": False}
    folder: Path | None = None
    try:
        if address is not None:
            _connect(ray, address, quiet)
        else:
            system = tempfile.gettempdir()
            folder = Path(
                tempfile.mkdtemp(prefix="edgeprune-", dir=system if len(system) < _LONGEST_FOLDER else "/tmp")
            )
            # "local": a cluster that somebody else started on this machine is left alone.
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
                **quiet,
            )
        crew = Crew(ray, cpus=cpus, gpus=gpus)
        if not crew.room:
            raise InputError(
                f"A trial is to have {cpus} CPUs and {gpus:g} GPUs, and no machine has both ({_largest(ray)}).",
                "less in `resources` of the sweep",
            )
        with _silent(ray):
            yield crew
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _silent(ray: Any) -> Iterator[None]:
    """Ray tells of a dead worker on standard output, where JSON goes, and has no setting that keeps it from that."""
    module = ray._private.worker
    tell = module.print_to_stdstream
    module.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        module.print_to_stdstream = tell


def _connect(ray: Any, address: str, quiet: dict[str, Any]) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():
            # Ray itself tries for minutes, and tells standard error about it.
            socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise EdgepruneError(
            f"No Ray cluster at {address} lets this machine in: {reason[:300]}.",
            "check RAY_ADDRESS, that Ray and Python have its versions here, and RAY_AUTH_MODE=token where it wants one",
        ) from None


def _largest(ray: Any) -> str:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes[:4])
