"""A sweep finds what it is asked for, loses nothing when something dies, and does nothing twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import EDGEPRUNE, ENVIRONMENT, Ask
from tiny import make_images, write_recipe

from edgeprune.errors import EdgepruneError, InputError, MissingExtraError
from edgeprune.pipeline import SilentReporter, Workspace, sweep_share
from edgeprune.pipeline.sweep_course import SweepCourse
from edgeprune.pipeline.sweep_crew import open_crew
from edgeprune.pipeline.sweep_halving import goes_on
from edgeprune.pipeline.sweep_one_trial import Event, Order, run_trial
from edgeprune.pipeline.sweep_search import Known, propose_values
from edgeprune.pipeline.sweep_share import pull_sweep, pull_trial, push_network, push_runs, push_sweep
from edgeprune.pipeline.sweep_table import Point, find_front, write_tables
from edgeprune.pipeline.sweep_trials import Trial, TrialLevel, TrialStore, hold_lock, merge_journal, trial_recipe
from edgeprune.recipe.space import Sweep, SweepFile, read_sweep
from edgeprune.results import Accuracy
from edgeprune.storage import open_storage

RECIPES = Path(__file__).parent.parent / "recipes"
SPACE: dict[str, Any] = {
    "recover.lr": {"log_uniform": [1e-4, 1e-2]},
    "prune.importance": {"choice": ["l1_norm", "bn_gamma"]},
    "recover.epochs": {"integer": [2, 4]},
    "prune.targets": {"choice": [[0.3], [0.2, 0.4]]},
}
# Seconds of training are seconds of every test below.
NETWORK = """
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean(dim=(2, 3)))
"""


def write_sweep(folder: Path, **values: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(
        yaml.safe_dump({"name": "tiny-sweep", "base": "tiny.yaml"} | values, sort_keys=False), encoding="utf-8"
    )
    return path


def level(accuracy: float = 0.9, *, macs: int = 100, name: str = "s30", target: float = 0.3) -> TrialLevel:
    judged = Accuracy(correct=round(accuracy * 100), n=100)
    return TrialLevel(level=name, target=target, val=judged, test=judged, params=macs, macs=macs, int8_bytes=macs)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A recipe of a network of two convolutions, images, nothing made yet."""
    root = tmp_path / "project"
    make_images(root / "images", per_class=24)
    (root / "tiny_net.py").write_text(NETWORK, encoding="utf-8")
    write_recipe(
        root / "tiny.yaml",
        Path("images"),
        model={"network": "tiny_net:Net", "weights": "none"},
        train={"epochs": 1, "batch_size": 16},
        recover={"epochs": 2, "batch_size": 16},
        prune={"targets": [0.3, 0.6], "scope": "all", "align": 1},
    )
    return root


@pytest.fixture
def file(project: Path) -> SweepFile:
    return read_sweep(write_sweep(project, space=SPACE, search="tpe"))


def sweep_of(**values: Any) -> Sweep:
    return Sweep.model_validate_json(json.dumps({"name": "a", "base": "b", "space": SPACE} | values))


# What is written down


def test_the_shipped_sweeps_are_valid_and_the_seed_runs_are_all_there() -> None:
    assert read_sweep(RECIPES / "sweep.yaml").base is not None
    seed = read_sweep(RECIPES / "sweep-seed.yaml", data_path="photos")
    assert [recipe.name for recipe in seed.recipes] == [f"seed-run{run}" for run in (1, 2, 3, 4, 5, 6)]
    assert {recipe.data.path for recipe in seed.recipes} == {"photos"}
    assert seed.sweep.count == 6


@pytest.mark.parametrize(
    ("values", "sentence", "remedy"),
    [
        ({"space": {"recover.lrr": {"choice": [1]}}}, "space.recover.lrr is no key of a recipe", "`lr`"),
        ({"space": {"recover": {"choice": [1]}}}, "space.recover is a whole section", "one of its keys"),
        ({"space": {"recover.lr.x": {"choice": [1]}}}, "goes below a value", "`recover.lr`"),
        ({"space": {"name": {"choice": ["a"]}}}, "space.name is no key", "`"),
        ({"space": {"recover.lr": {"choices": [1]}}}, "unknown key `space.recover.lr.choices`", "`choice`"),
        ({"space": {"recover.lr": {"choice": [1], "uniform": [0, 1]}}}, "has one of choice", "change"),
        ({"space": {"recover.lr": {"uniform": [1, 0.1]}}}, "from the lower to the higher", "change"),
        ({"space": {"recover.lr": {"log_uniform": [0, 0.1]}}}, "above 0", "change"),
        ({"space": {"recover.lr": {"uniform": [0, 1]}}, "search": "grid"}, "a grid has no end in recover.lr", "change"),
        ({"space": {}}, "the space is empty", "change"),
        ({"space": SPACE, "recipes": ["tiny.yaml"]}, "a base and a space, or a list of recipes", "change"),
        ({"space": SPACE, "trails": 3}, "unknown key `trails`", "`trials`"),
        ({"space": SPACE, "base": "none.yaml"}, "none.yaml does not exist", "tiny.yaml"),
        ({"base": None, "recipes": ["tiny.yaml", "tiny.yaml"]}, "two recipes are called 'tiny'", "rename"),
        ({"space": SPACE, "name": "a" * 35}, "name = ", "change name"),
    ],
)
def test_what_is_wrong_in_a_sweep_is_one_sentence(
    project: Path, ask: Ask, values: dict[str, Any], sentence: str, remedy: str
) -> None:
    write_sweep(project, **values)
    refusal = ask("sweep", "sweep.yaml", at=project).refusal()
    assert sentence in refusal
    assert remedy in refusal.splitlines()[1]
    assert not (project / "runs").exists()


# What is tried


def test_a_grid_is_every_combination_once_and_then_over() -> None:
    space = {
        "recover.lr": {"choice": [0.1, 0.2]},
        "prune.align": {"choice": [1, 8]},
        "recover.epochs": {"integer": [1, 3]},
    }
    sweep = sweep_of(space=space, search="grid")
    tried = [propose_values(sweep, index, []) for index in range(sweep.count)]
    assert sweep.count == len({json.dumps(values) for values in tried}) == 12
    assert tried[:2] == [
        {"recover.lr": 0.1, "prune.align": 1, "recover.epochs": 1},
        {"recover.lr": 0.1, "prune.align": 1, "recover.epochs": 2},
    ]
    assert propose_values(sweep, 12, []) is None


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_values_are_from_the_space_and_the_same_for_whoever_asks_again(search: str) -> None:
    """A sweep that goes on elsewhere must not become another one."""
    sweep = sweep_of(search=search, trials=8)
    known: list[Known] = []
    for index in range(8):
        values = propose_values(sweep, index, known)
        assert values is not None
        assert values == propose_values(sweep, index, [*known])
        assert json.loads(json.dumps(values)) == values
        assert list(values) == list(SPACE)
        assert 1e-4 <= values["recover.lr"] <= 1e-2
        assert values["prune.importance"] in {"l1_norm", "bn_gamma"}
        assert values["recover.epochs"] in {2, 3, 4}
        assert values["prune.targets"] in ([0.3], [0.2, 0.4])
        known.append(Known(values=values, state="done", accuracy=index / 10, cost=100.0))
    assert len({json.dumps(other.values) for other in known}) == 8


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_finite_space_is_over_when_everything_was_tried(search: str) -> None:
    """Twenty trials of four combinations would be sixteen for nothing."""
    sweep = sweep_of(space={"recover.epochs": {"integer": [1, 4]}}, search=search)
    known: list[Known] = []
    while len(known) < 8 and (values := propose_values(sweep, len(known), known)) is not None:
        known.append(Known(values=values, state="failed"))
    assert sorted(other.values["recover.epochs"] for other in known) == [1, 2, 3, 4]


def test_tpe_looks_where_trials_were_good_and_not_where_they_were_stopped() -> None:
    sweep = sweep_of(space={"recover.lr": {"log_uniform": [1e-4, 1.0]}}, search="tpe", trials=30)
    tried = [10 ** (-4 + 4 * place / 19) for place in range(20)]
    known = [
        Known(
            values={"recover.lr": lr},
            # Those that were stopped early look best: they were not pruned far.
            state="poor" if lr > 0.1 else "done",
            accuracy=0.99 if lr > 0.1 else 0.9 - abs(lr - 0.01),
            cost=100.0,
        )
        for lr in tried
    ]
    asked = [propose_values(sweep, index, known) for index in range(20, 30)]
    near = [values for values in asked if values is not None and 1e-3 < values["recover.lr"] < 0.1]
    assert len(near) >= 7


def test_a_trial_shares_the_unpruned_network_unless_its_values_change_that(file: SweepFile) -> None:
    """Training it again for every trial would cost more than all of the pruning."""
    shared = trial_recipe(file, 0, {key: 3 if key == "recover.epochs" else None for key in SPACE} | GOOD)
    other, same = (trial_recipe(file, index, GOOD | {"train.lr": 0.1}) for index in (1, 2))
    assert shared.name == "tiny-sweep-t000"
    assert shared.recover.epochs == 3
    assert shared.prune.targets == (0.2, 0.4)
    assert shared.model.baseline == "models/tiny"
    assert other.model.baseline == same.model.baseline != "models/tiny"
    assert str(other.model.baseline).startswith("models/tiny-sweep-base-")


GOOD = {"recover.lr": 0.001, "prune.importance": "l1_norm", "recover.epochs": 3, "prune.targets": [0.2, 0.4]}


def test_a_network_that_the_recipe_names_is_everybodys(project: Path) -> None:
    write_recipe(project / "tiny.yaml", Path("images"), model={"baseline": "models/mine"})
    file = read_sweep(write_sweep(project, space={"seed": {"integer": [1, 3]}}))
    assert trial_recipe(file, 0, {"seed": 2}).model.baseline == "models/mine"


def test_values_that_do_not_go_together_are_a_sentence(file: SweepFile) -> None:
    with pytest.raises(InputError, match=r"tiny-sweep-t004: recover\.lr = -1 does not fit"):
        trial_recipe(file, 4, GOOD | {"recover.lr": -1})


# Who goes on


@pytest.mark.parametrize(
    ("accuracy", "others", "reduction", "verdict"),
    [
        (0.5, [], 3, True),
        (0.5, [0.6], 3, False),
        (0.6, [0.6], 3, True),
        (0.7, [0.1, 0.2, 0.8, 0.3, 0.4], 3, True),
        (0.4, [0.1, 0.2, 0.8, 0.3, 0.7], 3, False),
        (0.4, [0.1, 0.2, 0.8, 0.3, 0.7], 2, True),
    ],
)
def test_the_best_share_of_a_rung_goes_on(accuracy: float, others: list[float], reduction: int, verdict: bool) -> None:
    assert goes_on(accuracy, others, reduction=reduction) is verdict


# What comes of it


def test_the_front_is_what_nothing_beats() -> None:
    figures = [(0.9, 100), (0.8, 50), (0.85, 100), (0.8, 60), (0.95, 200), (0.9, 100)]
    points = [Point(trial=f"t{n}", level=level(acc, macs=macs)) for n, (acc, macs) in enumerate(figures)]
    assert [point.trial for point in find_front(points, "macs")] == ["t1", "t0", "t4"]


def test_accuracy_on_test_is_shown_for_the_front_alone(tmp_path: Path) -> None:
    """A table of all of them would be a way to choose by test images."""
    trials = [
        Trial(name="t0", values={"recover.lr": 0.1}, state="finished", levels=(level(0.9), level(0.7, macs=200))),
        Trial(name="t1", values={"recover.lr": 0.2}, state="failed", reason="it | broke"),
    ]
    write_tables(tmp_path, sweep_of(space={"recover.lr": {"choice": [0.1, 0.2]}}), trials)
    values = json.loads((tmp_path / "pareto.json").read_text(encoding="utf-8"))
    assert [(point["trial"], point["test_accuracy"]) for point in values["front"]] == [("t0", 0.9)]
    assert len(values["levels"]) == 2
    assert not any("test" in key for point in values["levels"] for key in point)
    text = (tmp_path / "pareto.md").read_text(encoding="utf-8")
    assert "| t0 | s30 | 0.9000 (n=100) | 0.9000 (n=100, 95 % " in text
    assert "| t1 | failed | 0.2 |  |  |  | it / broke |" in text
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_belongs_to_one_sweep_which_may_grow(project: Path, file: SweepFile) -> None:
    store = TrialStore(project / "runs" / "tiny-sweep")
    store.claim(file)
    store.claim(read_sweep(write_sweep(project, space=SPACE, search="tpe", trials=99, resources={"cpus": 4})))
    with pytest.raises(InputError, match=r"another sweep of that name: seed: 1 \(from 0\)"):
        store.claim(read_sweep(write_sweep(project, space=SPACE, search="tpe", seed=1)))
    recipe = yaml.safe_load((project / "tiny.yaml").read_text(encoding="utf-8"))
    write_recipe(project / "tiny.yaml", Path("images"), **recipe | {"recover": {"epochs": 7}})
    with pytest.raises(InputError, match=r"recipes\.tiny\.recover\.epochs: 7 \(from 2\)"):
        store.claim(read_sweep(write_sweep(project, space=SPACE, search="tpe")))


def test_a_folder_that_is_no_sweep_is_left_alone(project: Path, file: SweepFile) -> None:
    folder = project / "runs" / "tiny-sweep"
    folder.mkdir(parents=True)
    (folder / "mine.txt").touch()
    with pytest.raises(InputError, match="is no sweep"):
        TrialStore(folder).claim(file)


def test_two_processes_do_not_work_on_one_sweep(tmp_path: Path) -> None:
    with (
        hold_lock(tmp_path / ".lock", wait=False),
        pytest.raises(InputError, match="another process"),
        hold_lock(tmp_path / ".lock", wait=False),
    ):
        pass


def test_journals_of_trials_become_one_and_no_entry_stands_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        text = f"# Journal of runs\n\n---\n\n**Run:** 2026_{name}\n\n**Goal:** {name}\n\n*In your own words:*\n\n"
        (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
    journal = tmp_path / "JOURNAL.md"
    for name in ("a", "b", "a", "none"):
        merge_journal(journal, tmp_path / f"{name}.md")
    text = journal.read_text(encoding="utf-8")
    assert (text.count("# Journal of runs"), text.count("**Run:** 2026_a"), text.count("**Run:** 2026_b")) == (1, 1, 1)


class Answers:
    """What workers are told."""

    def __init__(self) -> None:
        self.given: list[bool] = []

    def answer(self, _: str, *, go_on: bool) -> None:
        self.given.append(go_on)


def test_a_trial_that_is_run_again_is_judged_only_where_it_had_not_been(project: Path) -> None:
    """It tells of what it finds, and trials that came later must not stop it there."""
    file = read_sweep(write_sweep(project, space=SPACE, search="random", trials=2, early_stopping={"reduction": 2}))
    store = TrialStore(project / "runs" / "tiny-sweep")
    store.claim(file)
    poor = tuple(level(0.5, name=f"s{target:.0f}", target=target / 100) for target in (20, 40, 60, 80))
    good = tuple(level(0.9, name=f"s{target:.0f}", target=target / 100) for target in (20, 40, 60, 80))
    store.save(Trial(name="tiny-sweep-t000", values=GOOD, levels=poor))
    store.save(Trial(name="tiny-sweep-t001", values=GOOD, state="finished", levels=good))
    course = SweepCourse(file, Workspace(project), SilentReporter(), store, None, retry_failed=False)
    crew = Answers()
    for found in poor:
        course.handle(crew, "tiny-sweep-t000", Event(kind="level", worker="w", level=found))  # type: ignore[arg-type]
        assert course.trials[0].levels == poor
    assert crew.given == [True, True, True, False]


def test_a_pull_that_was_interrupted_is_made_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has the word that a trial ended has its journal and levels too."""
    file = read_sweep(write_sweep(project, space=SPACE))
    away = Path(shutil.copytree(project, project.parent / "away"))
    storage = open_storage(f"file://{project.parent}/shared")
    for workspace in (Workspace(away), Workspace(project)):
        TrialStore(workspace.runs / "tiny-sweep").claim(file)
    there, here = (TrialStore(root / "runs" / "tiny-sweep") for root in (away, project))
    there.save(Trial(name="tiny-sweep-t000", values=GOOD, state="finished", levels=(level(),)))
    there.journal("tiny-sweep-t000").write_text("# Journal of runs\n\n---\n\n**Run:** 2026_a\n\n", encoding="utf-8")
    made = away / "models" / "tiny-sweep-t000-s30"
    run = away / "runs" / "2026-11-28_00-00-00_tiny-sweep-t000_prune"
    for folder in (made, run):
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    push_network(storage, Workspace(away), made)
    push_runs(storage, Workspace(away), "tiny-sweep-t000")
    push_sweep(storage, Workspace(away), there)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweep_share, "pull_trial", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pull_sweep(storage, Workspace(project), here)
    assert here.load(["tiny-sweep-t000"]) == []
    pull_sweep(storage, Workspace(project), here)
    assert here.load(["tiny-sweep-t000"]) == there.load(["tiny-sweep-t000"])
    assert (project / "models" / made.name).is_dir()
    assert "**Run:** 2026_a" in (project / "JOURNAL.md").read_text(encoding="utf-8")
    # The run was still going on when it was fetched; later it is whole.
    (run / "results.json").touch()
    push_runs(storage, Workspace(away), "tiny-sweep-t000")
    pull_trial(storage, Workspace(project), "tiny-sweep-t000")
    assert (project / "runs" / run.name / "results.json").exists()


def test_a_sweep_of_which_every_trial_failed_has_failed(project: Path, ask: Ask) -> None:
    """Finished trials are not run again, and failed ones only when asked: nothing here starts Ray."""
    file = read_sweep(write_sweep(project, space={"recover.lr": {"choice": [-1, -2]}}, search="grid"))
    store = TrialStore(project / "runs" / "tiny-sweep")
    store.claim(file)
    for index, lr in enumerate((-1, -2)):
        store.save(Trial(name=f"tiny-sweep-t00{index}", values={"recover.lr": lr}, state="failed", reason="No."))
    answer = ask("sweep", "sweep.yaml", at=project)
    assert "Every trial is up to date." in answer.out
    assert "All 2 trials failed; the first: No." in answer.refusal(1)
    assert "--retry-failed" in answer.err


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match="`search: tpe` needs the package optuna"):
        propose_values(sweep_of(search="tpe"), 0, [])


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(MissingExtraError, match="needs the package ray") as caught,
        open_crew(address=None, cpus=1, gpus=0),
    ):
        pass
    assert caught.value.remedy == "pip install 'edgeprune[cluster]'"


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    """Ray itself tries for ten minutes."""
    began = time.monotonic()
    with (
        pytest.raises(EdgepruneError, match=r"lets this machine in: .*refused"),
        open_crew(address="127.0.0.1:9", cpus=1, gpus=0),
    ):
        pass
    assert time.monotonic() - began < 30


@pytest.mark.long
def test_a_machine_without_the_projects_folder_works_through_the_storage(
    project: Path, file: SweepFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And one that has neither says so, instead of training a network of its own somewhere."""
    recipe = trial_recipe(file, 0, GOOD)
    images = recipe.data.model_copy(update={"path": str(project / "images")})
    recipe = recipe.model_copy(update={"data": images})
    elsewhere, url = tmp_path / "elsewhere", f"file://{tmp_path}/shared"
    elsewhere.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(project)
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    told: list[str] = []
    order = {"recipe": recipe, "sweep": "tiny-sweep", "root": str(project), "mark": "{}"}
    with pytest.raises(InputError, match="does not see"):
        run_trial(Order(**order, storage=""), lambda level: told.append(level.level))
    event = run_trial(Order(**order, storage=url), lambda level: told.append(level.level))
    assert told == ["s20"]  # the last level is told with the end
    assert [level.level for level in event.levels] == ["s20", "s40"]
    assert event.journal.count("**Run:** ") == 1
    assert not (project / "models").exists()
    assert not (project / "JOURNAL.md").exists()
    shared = open_storage(url)
    assert shared.names("models", "*") == ["models/tiny", "models/tiny-sweep-t000-s20", "models/tiny-sweep-t000-s40"]
    assert shared.names("runs", "*_prune") == [f"runs/{event.run}"]
    # On a third machine, both levels are there before anything is made; so is the run, which was cut off at its end.
    (tmp_path / "shared" / "runs" / event.run / "results.json").unlink()
    listed = tmp_path / "shared" / "runs" / event.run / ".edgeprune-files.json"
    files = json.loads(listed.read_text(encoding="utf-8"))
    listed.write_text(json.dumps({name: files[name] for name in files if name != "results.json"}), encoding="utf-8")
    shutil.rmtree(elsewhere)
    elsewhere.mkdir()
    again = run_trial(Order(**order, storage=url), lambda level: told.append(level.level))
    assert told == ["s20", "s20", "s40"]
    assert (again.levels, again.run) == (event.levels, event.run)
    assert (tmp_path / "shared" / "runs" / event.run / "results.json").exists()
    # On a fourth one nothing is left to do. Whoever asked may never have heard of the end, so it is told whole.
    shutil.rmtree(elsewhere)
    elsewhere.mkdir()
    last = run_trial(Order(**order, storage=url), lambda level: told.append(level.level))
    assert (last.levels, last.journal) == (event.levels, event.journal)


# With Ray


@contextmanager
def started(project: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """In a group of its own, so that an interruption reaches all of it, as from a terminal."""
    with subprocess.Popen(
        [*EDGEPRUNE, "sweep", "sweep.yaml", *arguments],
        cwd=project,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(found: Callable[[], Any], *, seconds: float = 240) -> Any:
    """What is found, once it is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError, ValueError, LookupError):  # a file that is not there yet
            if answer := found():
                return answer
        time.sleep(0.05)
    raise TimeoutError


def trials_of(project: Path) -> dict[str, dict[str, Any]]:
    folder = project / "runs" / "tiny-sweep" / "trials"
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def processes_below(folder: Path) -> list[str]:
    """Command lines of processes that work in a folder, this one's aside."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").resolve().is_relative_to(folder) and process.name != str(os.getpid()):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.long
def test_a_sweep_survives_an_interruption_another_machine_and_a_killed_worker(project: Path, tmp_path: Path) -> None:
    """What is finished comes from the storage and is not run again; what a worker took with it is."""
    space = {
        "prune.importance": {"choice": ["l1_norm", "bn_gamma", "l2_norm", "fpgm"]},
        "recover.epochs": {"choice": [2, 0]},
    }
    write_sweep(project, space=space, search="grid", early_stopping={"reduction": 2})
    other, shared = Path(shutil.copytree(project, tmp_path / "other")), tmp_path / "shared"
    ended = {"finished", "stopped"}

    with started(project, "--storage", f"file://{shared}") as sweep:
        wait_for(lambda: [trial for trial in trials_of(shared).values() if trial["state"] in ended])
        os.killpg(sweep.pid, signal.SIGINT)
        out, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 130
    assert err == "edgeprune: interrupted; what is finished stays, the same command goes on from there.\n"
    wait_for(lambda: not processes_below(project), seconds=60)
    before = {name: trial for name, trial in trials_of(shared).items() if trial["state"] in ended}
    assert before
    assert f"| {next(iter(before))} | " in (project / "runs" / "tiny-sweep" / "pareto.md").read_text(encoding="utf-8")

    with started(other, "--storage", f"file://{shared}", "--json") as sweep:
        running = wait_for(lambda: [trial for trial in trials_of(other).values() if trial["worker"]])
        os.kill(int(running[0]["worker"].rpartition(":")[2]), signal.SIGKILL)
        out, err = sweep.communicate(timeout=300)
    assert (sweep.returncode, err) == (0, "")
    values, after = json.loads(out), trials_of(other)
    states = {trial["name"][-1]: trial["state"] for trial in values["trials"]}
    assert [states[number] for number in "1357"] == ["failed"] * 4
    assert {states[number] for number in "0246"} <= ended
    assert "recover.epochs = 0 does not fit" in values["trials"][1]["reason"]
    assert sum(trial["deaths"] for trial in after.values()) == 1
    assert {name: after[name] for name in before} == before
    assert trials_of(shared) == after
    # Ordinary runs with their levels; those that were stopped early are interrupted ones, and stand in no journal.
    finished = [name for name, trial in after.items() if trial["state"] == "finished"]
    runs = [path.parent.name[20:] for path in (other / "runs").glob("2*/results.json")]
    assert sorted(runs) == [f"{name}_prune" for name in finished]
    assert (other / "JOURNAL.md").read_text(encoding="utf-8").count("**Run:** ") == len(finished)
    for name, trial in after.items():
        for made in trial["levels"]:
            assert (other / "models" / f"{name}-{made['level']}" / "model.safetensors").exists()
    assert len([path for path in (other / "models").iterdir() if path.name == "tiny" or "base" in path.name]) == 1
    wait_for(lambda: not processes_below(other), seconds=60)
