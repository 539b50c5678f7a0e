"""What is installed, and what the ways in (`make`, the wheel, constraints.txt) promise."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import edgeprune
from edgeprune.recipe import read_recipe

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
TARGETS = (
    *("help", "setup", "train", "census", "sensitivity", "prune", "audit", "export", "verify", "list"),
    *("check", "format-check", "lint", "types", "layers", "test", "test-long", "bench", "format", "clean", "distclean"),
)


def requirements_of(*lists: list[str]) -> dict[str, Requirement]:
    """Distribution name to requirement, without edgeprune's own extras."""
    every = [Requirement(line) for each in lists for line in each]
    return {canonicalize_name(each.name): each for each in every if each.name != "edgeprune"}


def make(*arguments: str, **variables: str) -> str:
    """What make would run, or what it says; nothing of the caller's own make reaches it."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**inherited, **variables}, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Tests, recipes and baselines in site-packages would shadow the checkout's."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"edgeprune", f"edgeprune-{edgeprune.__version__}.dist-info"}
    assert "edgeprune/recipe/sections.py" in names
    # What is no Python is easily left out: profiles, templates of the firmware side, headers that stand in for TFLM's.
    for data in ("devices/stm32f746.toml", "export/c_source/templates/self_test.cc", "verify/preprocess_driver.cc"):
        assert f"edgeprune/{data}" in names
    assert any(name.startswith("edgeprune/verify/tflm_headers/") for name in names)
    assert not [name for name in names if "__pycache__" in name or Path(name).name.startswith("test_")]


def test_the_wheel_names_the_version_licence_and_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    information = f"edgeprune-{edgeprune.__version__}.dist-info"
    metadata = archive.read(f"{information}/METADATA").decode()
    assert f"\nVersion: {edgeprune.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "\nRequires-Python: <3.14,>=3.11\n" in metadata
    assert archive.read(f"{information}/entry_points.txt").decode().split() == [
        *("[console_scripts]", "edgeprune", "=", "edgeprune.cli:main")
    ]


def test_the_base_install_is_small_enough_for_somebody_who_only_pulls() -> None:
    """One array library among them, and a bundle could no longer be fetched and checked in seconds."""
    assert set(requirements_of(PROJECT["dependencies"])) == {"pydantic", "pyyaml", "rich", "typer"}


def test_all_takes_in_every_extra_but_dev() -> None:
    (everything,) = [Requirement(line) for line in PROJECT["optional-dependencies"]["all"]]
    assert everything.extras == set(PROJECT["optional-dependencies"]) - {"all", "dev"}


def test_every_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    """One loose name is enough for a resolver to walk torch back by four releases, with all of CUDA."""
    for name, requirement in requirements_of(
        PROJECT["dependencies"], *PROJECT["optional-dependencies"].values(), ["hatchling>=1.27"]
    ).items():
        assert name in PINS, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(PINS[name], prereleases=True), f"{requirement} excludes {PINS[name]}"


def test_every_line_of_the_constraints_is_a_plain_pin() -> None:
    """No path, address, marker or local part: the same file must serve Linux and macOS, with a GPU or without."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line and not line.startswith("#")]) == len(PINS)
    assert not [version for version in PINS.values() if "+" in version]


def test_make_lists_every_target_and_variable() -> None:
    """Nobody reads a Makefile to find out what it can do."""
    listed = make()
    assert re.findall(r"^  ([a-z-]+) +\S", listed, re.MULTILINE) == list(TARGETS)
    for variable in ("TARGET", "LEVELS", "RECIPE", "DATA", "WEIGHTS", "DEVICE", "BUNDLE", "PYTHON", "TORCH"):
        assert re.search(rf"^  {variable}=.* \S", listed, re.MULTILINE), variable


@pytest.mark.parametrize("jobs", ["-j1", "-j8"])
def test_goals_run_in_the_order_typed(jobs: str) -> None:
    """`make prune export` is a sequence, even for somebody whose MAKEFLAGS say -j."""
    commands = re.findall(r"/edgeprune (\w+) ", make("-n", jobs, "prune", "export", "TARGET=0.6"))
    assert commands == ["prune", "export"]


@pytest.mark.parametrize("value", ["a b", "it's", "$(shell echo no)", "$HOME", "`id`", "a;b", 'a"b', "-1"])
def test_a_value_reaches_the_program_as_it_was_typed(value: str) -> None:
    """A path with a space is common; a value that the shell runs is worse."""
    (line,) = [line for line in make("-n", "prune", f"TARGET={value}").splitlines() if "/edgeprune prune" in line]
    arguments = line.split("/edgeprune ", 1)[1]
    passed = subprocess.run(["sh", "-c", f"printf '%s\\n' {arguments}"], capture_output=True, text=True, check=True)
    assert passed.stdout.splitlines() == ["prune", "recipes/elpv96.yaml", "--target", value]


def test_target_is_passed_only_when_it_was_given() -> None:
    """Without it, the command says what to type; an empty one would be a puzzle."""
    assert "--target" not in make("-n", "export")
    assert make("-n", "export", "LEVELS=0.3 0.6").count("--target") == 2


def test_clean_spares_runs_journal_and_baselines(tmp_path: Path) -> None:
    """What took hours to train, or holds a person's own words, cannot be made again."""
    spared = ["runs/a/log.txt", "JOURNAL.md", "models/elpv96/model.safetensors", "models/my-set/model.safetensors"]
    spared.append("exports/person96/manifest.json")
    removed = [
        "models/elpv96-s60/a",
        "models/elpv96-s60_5/a",
        "models/elpv96-sensitivity/a",
        "exports/elpv96-s60/a",
        ".cache/a",
        "edgeprune/__pycache__/a",
    ]
    for name in (*spared, *removed, "tests/a", "tools/a"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    make("-f", str(ROOT / "Makefile"), "-C", str(tmp_path), "clean")
    assert [name for name in spared if not (tmp_path / name).exists()] == []
    assert [name for name in removed if (tmp_path / name).exists()] == []


def test_a_python_that_is_too_old_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    """Otherwise it is pip that says so, minutes later and in other words."""
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\ncase "$1$2" in -V) echo Python 3.9.1 ;; -c) ;; *) exit 1 ;; esac\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "environment.py").touch()
    environment = {"PATH": os.environ["PATH"]}
    refused = subprocess.run(
        ["make", "setup", f"PYTHON={old}"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "Python 3.11, 3.12 or 3.13 is needed" in refused.stdout
    assert "make setup PYTHON=python3.1" in refused.stdout
    assert not (tmp_path / ".venv").exists()


RECIPES = [path for path in sorted((ROOT / "recipes").glob("*.yaml")) if not path.stem.startswith("sweep")]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_named_after_its_file_and_valid(recipe: Path) -> None:
    assert read_recipe(recipe).name == recipe.stem


def test_continuous_integration_calls_the_script_that_people_can_run() -> None:
    """What runs only on a server cannot be mended at a desk."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    commands = [step.get("run") for job in jobs.values() for step in job["steps"]]
    assert ".ci/run" in commands
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
