"""Killed at any moment and started again: the same weights as an undisturbed run, and nothing half-written between."""

import json
import shutil
import signal
import subprocess
import time
from contextlib import chdir
from pathlib import Path

import pytest
from command import EDGEPRUNE, ENVIRONMENT, call_edgeprune, run_edgeprune
from tiny import make_images, write_recipe

from edgeprune.verify.bundle import verify_bundle
from edgeprune.zoo import checkpoint_digest, load_checkpoint

TRAIN, PRUNE, EXPORT = ("train", "tiny.yaml"), ("prune", "tiny.yaml"), ("export", "tiny.yaml", "--target", "0.6")
# Shares of a command's time: while Python starts, while it works, while it ends. Fifteen blows in all.
MOMENTS = (0.05, 0.35, 0.6, 0.8, 0.92)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a baseline. The recipe names its images relative to it, so that a copy is the same project."""
    root = tmp_path_factory.mktemp("trained") / "project"
    make_images(root / "images", per_class=24)
    write_recipe(root / "tiny.yaml", Path("images"), train={"epochs": 1}, recover={"epochs": 2, "batch_size": 8})
    assert call_edgeprune(*TRAIN, at=root) == 0
    return root


@pytest.fixture(scope="module")
def undisturbed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its levels, made in one go."""
    root = copied(trained, tmp_path_factory.mktemp("undisturbed") / "project")
    run_to_the_end(root, PRUNE)
    return root


def copied(project: Path, to: Path) -> Path:
    return Path(shutil.copytree(project, to))


def run_to_the_end(root: Path, command: tuple[str, ...]) -> str:
    answer = run_edgeprune(*command, at=root)
    assert (answer.code, answer.err) == (0, "")
    return answer.out


def start(root: Path, command: tuple[str, ...]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*EDGEPRUNE, *command], cwd=root, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def strike_at(root: Path, line: str, how: signal.Signals) -> tuple[int, str]:
    """Start pruning and send a signal once a line of it has been printed; the exit code and standard error."""
    process = start(root, PRUNE)
    assert process.stdout is not None
    for printed in process.stdout:
        if line in printed:
            process.send_signal(how)
            break
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def digests(root: Path) -> dict[str, str]:
    """Folder of every checkpoint to its digest."""
    folders = sorted(path.parent for path in (root / "models").glob("*/model.safetensors"))
    return {folder.name: checkpoint_digest(folder) for folder in folders}


def the_only_run(root: Path) -> Path:
    (run,) = (root / "runs").iterdir()
    return run


def check_what_is_there(root: Path) -> None:
    """Whatever stands under a final name is whole, at any moment. Leftovers have hidden names."""
    for folder in visible(root / "models"):
        if folder.name != "tiny-dense":
            record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
            assert record["weights"] == checkpoint_digest(folder)
            with chdir(root):
                load_checkpoint(folder)
    for folder in visible(root / "exports"):
        if folder.is_dir():
            check = verify_bundle(folder)
            assert check.passed, check.gates
            assert check.complete
    for folder in visible(root / "runs"):
        assert (folder / "config.yaml").read_text(encoding="utf-8").startswith("name: tiny\n")
    for path in root.rglob("*.json"):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            json.loads(path.read_text(encoding="utf-8"))
    for path in root.rglob("metrics.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            json.loads(line)


def visible(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if not path.name.startswith(".")]


def test_a_run_killed_in_the_middle_of_a_level_ends_with_the_same_weights(
    trained: Path, undisturbed: Path, tmp_path: Path
) -> None:
    root = copied(trained, tmp_path / "project")
    assert strike_at(root, "[target 60.0% | epoch 1/2]", signal.SIGKILL) == (-signal.SIGKILL, "")
    check_what_is_there(root)
    assert digests(root).keys() == {"tiny", "tiny-s30"}
    assert not (root / "JOURNAL.md").exists()
    out = run_to_the_end(root, PRUNE)
    assert "s30: up to date" in out
    assert digests(root) == digests(undisturbed)
    # One run, one story: it goes on in the same directory and has one entry in the journal.
    log = (the_only_run(root) / "log.txt").read_text(encoding="utf-8")
    assert log.count("Resumed at ") == 1
    assert log.count("[target 30.0% | epoch 2/2]") == 1
    assert log.count("[target 60.0% | epoch 2/2]") >= 1
    assert (the_only_run(root) / "results.json").is_file()
    assert (root / "JOURNAL.md").read_text(encoding="utf-8").count("**Run:**") == 1


def test_an_interruption_is_one_line_and_exit_code_130(trained: Path, tmp_path: Path) -> None:
    root = copied(trained, tmp_path / "project")
    code, errors = strike_at(root, "[target 30.0% | epoch 1/2]", signal.SIGINT)
    assert code == 130
    (line,) = errors.splitlines()
    assert line.startswith("edgeprune: interrupted; ")
    check_what_is_there(root)
    assert digests(root).keys() == {"tiny"}
    assert not list((root / "models").glob(".*"))


def test_a_run_killed_before_its_closing_table_still_gets_one(undisturbed: Path, tmp_path: Path) -> None:
    """The moment after the last level: nothing is left to make, but the run has not told how it ended."""
    root = copied(undisturbed, tmp_path / "project")
    for path in (the_only_run(root) / "results.json", root / "JOURNAL.md"):
        path.unlink()
    assert call_edgeprune(*PRUNE, at=root) == 0
    assert (the_only_run(root) / "results.json").is_file()
    journal = (root / "JOURNAL.md").read_bytes()
    assert journal.count(b"**Run:**") == 1
    # And the moment after the journal: the entry is there, and stays the only one.
    (the_only_run(root) / "results.json").unlink()
    assert call_edgeprune(*PRUNE, at=root) == 0
    assert (the_only_run(root) / "results.json").is_file()
    assert (root / "JOURNAL.md").read_bytes() == journal


def kill_after(root: Path, command: tuple[str, ...], seconds: float) -> bool:
    """Kill a command that has run for a while; False when it had ended by itself."""
    process = start(root, command)
    time.sleep(seconds)
    process.kill()
    process.communicate(timeout=60)
    return process.returncode == -signal.SIGKILL


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_killed_at_any_moment_of_any_command_everything_ends_the_same(trained: Path, tmp_path: Path) -> None:
    before = copied(trained, tmp_path / "before-train")
    for made in ("models", ".cache"):
        shutil.rmtree(before / made)
    for command in (TRAIN, PRUNE, EXPORT):
        after = copied(before, tmp_path / f"after-{command[0]}")
        began = time.monotonic()
        run_to_the_end(after, command)
        seconds = time.monotonic() - began
        root = copied(before, tmp_path / f"struck-{command[0]}")
        for moment in MOMENTS:
            killed = False
            while not killed:
                # Each blow meets what the last one left lying about, but no finished work.
                for path in visible(root / "models"):
                    if not (before / "models" / path.name).exists():
                        shutil.rmtree(path)
                killed = kill_after(root, command, moment * seconds)
                check_what_is_there(root)
                # Too late: the machine has become quieter.
                seconds *= 1 if killed else 0.8
        run_to_the_end(root, command)
        check_what_is_there(root)
        assert digests(root) == digests(after)
        # A run that had told everything when it was killed is a run of its own; every other one was continued.
        runs = visible(root / "runs")
        assert all((run / "results.json").is_file() for run in runs)
        if runs:
            assert (root / "JOURNAL.md").read_text(encoding="utf-8").count("**Run:**") == len(runs)
        for place in ("models", "exports"):
            assert not list((root / place).glob(".*")), "what a killed run left behind is cleared away"
        for model in after.glob("exports/*/model.onnx"):
            assert (root / model.relative_to(after)).read_bytes() == model.read_bytes()
        before = after
