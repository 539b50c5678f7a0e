"""A process that runs trials one after another, on this machine or another.

It has one conversation: it is given a trial, is asked for the next event again and again, and after a level is told
whether to go on.
"""

import os
import platform
import queue
import threading
import traceback
from dataclasses import replace
from pathlib import Path

import torch

from edgeprune.errors import EdgepruneError
from edgeprune.pipeline.sweep_one_trial import Event, Order, run_trial
from edgeprune.pipeline.sweep_trials import TrialLevel


class _StoppedError(Exception):
    """The sweep wants no more of this trial."""


class TrialWorker:
    """Runs one trial after another.

    Args:
        threads: for torch.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._events: queue.Queue[Event] = queue.Queue()
        self._answers: queue.Queue[bool] = queue.Queue()
        self._worker = f"{platform.node()}:{os.getpid()}"

    def begin(self, order: Order) -> None:
        """Start with a trial."""
        threading.Thread(target=self._work, args=(order,), daemon=True).start()

    def next_event(self) -> Event:
        """Wait until there is something to tell."""
        return self._events.get()

    def answer(self, go_on: bool) -> None:
        """Go on after the level that was told, or stop."""
        self._answers.put(go_on)

    def _work(self, order: Order) -> None:
        try:
            self._tell(run_trial(order, self._tell_level))
        except _StoppedError:
            self._tell(Event(kind="end", state="stopped"))
        except EdgepruneError as error:
            self._tell(Event(kind="end", state="failed", reason=error.problem))
        except BaseException as error:  # whatever it is, the others go on
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})."
            self._tell(Event(kind="end", state="failed", reason=reason))

    def _tell(self, event: Event) -> None:
        self._events.put(replace(event, worker=self._worker))

    def _tell_level(self, level: TrialLevel) -> None:
        self._tell(Event(kind="level", level=level))
        if not self._answers.get():
            raise _StoppedError
