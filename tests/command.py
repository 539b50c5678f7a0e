"""The command line for tests: in this process, which is quick, or in one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeprune.cli import main

# Networks this small only wait for a second thread, and on a busy machine they wait long.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1"}
EDGEPRUNE = [sys.executable, "-m", "edgeprune"]


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int | str | None
    out: str
    err: str

    def refusal(self, code: int = 2) -> str:
        """The sentence of an error; everything that every error has to keep to is checked here."""
        assert self.code == code, self.err
        problem, remedy = self.err.splitlines()
        assert problem.startswith("edgeprune: ")
        assert problem.endswith(".")
        assert remedy.startswith("  try: ")
        return self.err


# ``ask("census", at=project)``, see the fixture.
Ask = Callable[..., Answer]


def call_edgeprune(*arguments: str, at: Path) -> int | str | None:
    """Run the program's entry point in a folder, in this process; the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(at)
        patch.setattr(sys, "argv", ["edgeprune", *arguments])
        try:
            main()
        except SystemExit as end:
            return end.code
    return 0


def run_edgeprune(*arguments: str, at: Path) -> Answer:
    """Run `edgeprune` in a folder until it ends."""
    return run_python("-m", "edgeprune", *arguments, at=at)


def run_python(*arguments: str, at: Path) -> Answer:
    """Run this interpreter in a folder until it ends: for what a process can only be asked once."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=at,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)
