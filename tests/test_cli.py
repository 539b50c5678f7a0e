"""The command line as people use it: what it prints, where, and with which exit code."""

import hashlib
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from bundle_factory import snapshot
from command import EDGEPRUNE, ENVIRONMENT, Answer, Ask, call_edgeprune, run_edgeprune, run_python
from tiny import make_images, write_recipe
from typer.core import TyperGroup
from typer.main import get_command

from edgeprune import __version__
from edgeprune.cli import app

pytestmark = pytest.mark.usefixtures("one_thread")

COMMANDS = (
    "train", "census", "sensitivity", "prune", "sweep", "audit", "export", "verify", "pull", "demo", "list", "devices",
    "data",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a baseline, the level s30 and its bundle. Shared: tests that change something copy it."""
    root = tmp_path_factory.mktemp("made") / "project"
    make_images(root / "images", per_class=24)
    write_recipe(
        root / "tiny.yaml", Path("images"), train={"epochs": 1}, prune={"targets": [0.3]}, recover={"epochs": 1}
    )
    for command in (["train"], ["prune"], ["export", "--target", "0.3"]):
        assert call_edgeprune(*command, "tiny.yaml", at=root) == 0
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy of the finished project."""
    return Path(shutil.copytree(made, tmp_path / "project"))


def change_recipe(root: Path, **sections: dict[str, object]) -> None:
    values = yaml.safe_load((root / "tiny.yaml").read_text(encoding="utf-8"))
    for section, changes in sections.items():
        values[section] = {**values.get(section, {}), **changes}
    (root / "tiny.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


# Help and usage


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(ask: Ask, tmp_path: Path, command: str) -> None:
    answer = ask(command, "--help", at=tmp_path)
    assert answer.code == 0
    assert answer.err == ""
    (example,) = (line for line in answer.out.splitlines() if "Example: " in line)
    words = example.partition("Example: ")[2].split()
    assert words[:2] == ["edgeprune", command]
    assert "--json" in answer.out
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    group.commands[command].make_context(command, words[2:])


def test_the_list_of_commands_is_complete(ask: Ask, tmp_path: Path) -> None:
    help_text = ask("--help", at=tmp_path).out
    listed = [line.split()[0] for line in help_text.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed == list(COMMANDS)


def test_no_arguments_means_help(ask: Ask, tmp_path: Path) -> None:
    assert ask(at=tmp_path) == ask("--help", at=tmp_path)


@pytest.mark.parametrize("arguments", [["--help"], ["prune", "--help"], ["verify", "--help"], ["--version"]])
def test_help_loads_nothing_heavy_and_answers_at_once(tmp_path: Path, arguments: list[str]) -> None:
    """Processor time, best of five: the wall clock of a busy machine says nothing about the program."""
    code = (
        "import sys, time; from edgeprune.cli import main; main();"
        "print(sorted({'torch', 'numpy', 'rich', 'pydantic', 'onnxruntime'} & set(sys.modules)), time.process_time())"
    )
    for _ in range(5):
        *_, heavy, used = run_python("-c", code, *arguments, at=tmp_path).out.split()
        # typer itself looks at a command's options with pydantic.
        assert heavy == "[]" or (heavy == "['pydantic']" and len(arguments) == 2)
        if float(used) < 0.5:
            return
    pytest.fail("every attempt took half a second or more")


def test_the_version_is_printed(ask: Ask, tmp_path: Path) -> None:
    assert ask("--version", at=tmp_path) == Answer(0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prunne"], "No such command 'prunne'"),
        (["prune", "--tarrget", "0.6"], "No such option: --tarrget (Possible options: --target)"),
        (["prune", "--target"], "'--target' requires an argument"),
        (["prune", "a.yaml", "b.yaml"], "unexpected extra argument"),
        (["verify"], "Missing argument 'BUNDLE'"),
        (["verify", "x", "--require", "some"], "'some' is not one of 'manifest', 'all'"),
        (["pull"], "Missing argument 'SOURCE'"),
        (["--"], "Missing command"),
    ],
)
def test_wrong_usage_is_bad_input_and_names_the_help(ask: Ask, tmp_path: Path, arguments: list[str], said: str) -> None:
    error = ask(*arguments, at=tmp_path).refusal()
    assert said in error
    assert "try: edgeprune" in error
    assert "--help" in error


def test_processes_that_would_all_write_are_refused(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "`train` and `prune` only, not `export`" in ask("export", at=tmp_path).refusal()


# Values


@pytest.mark.parametrize("command", ["prune", "audit", "export"])
@pytest.mark.parametrize("value", ["60", "0", "1", "abc", "nan", "inf", "-inf", "-0.1", "", " ", "0.6x", "1e999"])
def test_an_impossible_target_is_refused_with_its_value(ask: Ask, tmp_path: Path, command: str, value: str) -> None:
    answer = ask(command, "nothing.yaml", f"--target={value}", at=tmp_path)
    error = answer.refusal()
    assert f"TARGET={value} is " in error
    assert "try: TARGET=0." in error
    assert answer.out == ""


def test_a_percentage_is_read_as_what_was_meant(ask: Ask, tmp_path: Path) -> None:
    assert "TARGET=0.45 (a fraction" in ask("prune", "--target", "45", at=tmp_path).refusal()


@pytest.mark.parametrize("value", ["45", "nan"])
def test_only_export_knows_all_levels(ask: Ask, tmp_path: Path, value: str) -> None:
    assert "TARGET=all is not a number" in ask("prune", "--target", "all", at=tmp_path).refusal()
    assert f"TARGET={value} is" in ask("audit", "--target", value, at=tmp_path).refusal()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: x\nrecover: {alpa: 0.5}\n", "unknown key `alpa` in `recover`.\n  try: `alpha`"),
        ("name: x\nprunning: {}\n", "unknown key `prunning`.\n  try: `prune`"),
        ("name: x\ntrain: {batch_size: 1}\n", "train.batch_size = 1"),
        ("name: x\nprune: {align: 3}\n", "prune.align = 3"),
        ("name: x\nprune: {targets: [0.5, 0.5]}\n", "targets must rise"),
        ("name: x\nrecover: {lr: .nan}\n", "recover.lr = nan"),
        ("name: ../x\n", "name = '../x'"),
        ("goal: nothing\n", "the key `name` is missing"),
        ("name: [x\n", "cannot be read"),
        ("\x00", "cannot be read"),
        ("", "is not a mapping of keys"),
        ("- a\n- b\n", "is not a mapping of keys"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_before_any_work(
    ask: Ask, tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "odd name.yaml").write_text(content, encoding="utf-8")
    for command in ("train", "prune", "audit", "list"):
        answer = ask(command, "odd name.yaml", at=tmp_path)
        assert said in answer.refusal()
        assert answer.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["odd name.yaml"]


def test_a_recipe_that_is_not_there_names_those_that_are(ask: Ask, tmp_path: Path) -> None:
    assert "recipes/elpv96.yaml does not exist" in ask("list", at=tmp_path).refusal()
    (tmp_path / "mine.yaml").write_text("name: mine\n", encoding="utf-8")
    assert "one of: mine.yaml" in ask("prune", "mime.yaml", at=tmp_path).refusal()
    (tmp_path / "folder.yaml").mkdir()
    assert "folder.yaml cannot be read" in ask("prune", "folder.yaml", at=tmp_path).refusal()


# Data and checkpoints


def test_a_data_folder_that_cannot_serve_is_named_before_training(ask: Ask, project: Path) -> None:
    """A full set of mistakes that people make with DATA=; as root, chmod 000 would still be readable."""
    (project / "empty").mkdir()
    (project / "one" / "cell").mkdir(parents=True)
    shutil.copy(project / "images/disc/000.png", project / "one/cell/000.png")
    shutil.copytree(project / "images", project / "hollow")
    for image in (project / "hollow/disc").iterdir():
        image.unlink()
    (project / "file").write_bytes(b"PK")
    wrong = {
        "nowhere": "/nowhere' does not exist",
        "empty": "'empty' holds no class folders",
        "one": "single class, 'cell'",
        "hollow": "'hollow/disc' holds no image",
        "file": "/file' is a file, not a folder",
    }
    if os.geteuid() != 0:
        (project / "locked").mkdir(mode=0o000)
        wrong["locked"] = "/locked' cannot be read: Permission denied"
    before = snapshot(project / "models")
    for folder, said in wrong.items():
        for command in ("train", "prune"):
            assert said in ask(command, "tiny.yaml", "--data", folder, at=project).refusal()
    assert snapshot(project / "models") == before


def test_a_broken_image_stops_the_run_and_is_named(ask: Ask, project: Path) -> None:
    (project / "images/disc/003.png").write_bytes(b"\x89PNG and nothing more")
    error = ask("train", "tiny.yaml", at=project).refusal()
    assert "disc/003.png" in error
    assert "skip_broken" in error


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}"], ids=["empty", "noise", "huge header"])
def test_damaged_weights_are_named_by_every_command_that_reads_them(ask: Ask, project: Path, content: bytes) -> None:
    """The level's are made again by prune; the baseline's are nobody's to replace."""
    (project / "models/tiny/model.safetensors").write_bytes(content)
    (project / "models/tiny-s30/model.safetensors").write_bytes(content)
    for command in (["prune", "tiny.yaml"], ["audit", "tiny.yaml"], ["export", "tiny.yaml", "--target", "0.3"]):
        assert "model.safetensors" in ask(*command, at=project).refusal()


def test_a_damaged_level_is_refused_by_export_with_the_command_that_makes_it(ask: Ask, project: Path) -> None:
    weights = project / "models/tiny-s30/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    error = ask("export", "tiny.yaml", "--target", "0.3", at=project).refusal()
    assert "models/tiny-s30" in error
    assert "try: make prune TARGET=0.3" in error


@pytest.mark.parametrize("count", [10**12, 0, -8, 1.5, None])
def test_absurd_channel_counts_are_refused_before_anything_is_allocated(ask: Ask, project: Path, count: object) -> None:
    """The level's file meets audit, the baseline's meets the first level that has to be made."""
    for folder, command in (("tiny-s30", "audit"), ("tiny", "prune")):
        path = project / "models" / folder / "architecture.json"
        architecture = json.loads(path.read_text(encoding="utf-8"))
        architecture["channels"]["features.4.block.0.0"] = {"out_channels": count}
        path.write_text(json.dumps(architecture), encoding="utf-8")
        target = "0.3" if command == "audit" else "0.1"
        assert f"models/{folder}" in ask(command, "tiny.yaml", "--target", target, at=project).refusal()


# Levels and bundles


def test_without_a_baseline_prune_says_how_to_get_one(ask: Ask, project: Path) -> None:
    shutil.rmtree(project / "models")
    error = ask("prune", "tiny.yaml", at=project).refusal()
    assert "models/tiny does not exist" in error
    assert "edgeprune train" in error


def test_export_without_a_target_says_what_to_type(ask: Ask, project: Path) -> None:
    assert "try: make export TARGET=0.6" in ask("export", "tiny.yaml", at=project).refusal()


def test_export_of_a_missing_level_names_the_command_that_makes_it(ask: Ask, project: Path) -> None:
    error = ask("export", "tiny.yaml", "--target", "0.45", at=project).refusal()
    assert "s45" in error
    assert "finished: s30" in error
    assert "try: make prune TARGET=0.45" in error
    shutil.rmtree(project / "models/tiny-s30")
    assert "make prune" in ask("export", "tiny.yaml", "--target", "all", at=project).refusal()


def test_a_target_out_of_reach_ends_with_its_table_and_exit_code_1(ask: Ask, project: Path) -> None:
    """The run goes on to its closing table; only the target that was asked for decides the exit code."""
    answer = ask("prune", "tiny.yaml", "--target", "0.99", at=project)
    error = answer.refusal(1)
    assert "s99 is missing at the end" in error
    assert "export tiny.yaml --target 0.3" in error.partition("try: ")[2]
    assert "99.00%" in answer.out
    assert "n/a" in answer.out
    change_recipe(project, prune={"targets": [0.3, 0.99]})
    assert ask("prune", "tiny.yaml", at=project).code == 0


def test_a_failed_gate_is_exit_code_1_with_the_table_and_publishes_nothing(ask: Ask, project: Path) -> None:
    """The unpruned file in the place of the level's, with records that vouch for it: only the gates can tell."""
    level = project / "models/tiny-s30"
    shutil.copy(project / "models/tiny-dense/candidates/model.onnx", level / "candidates/model.onnx")
    kept = json.loads((level / "candidates/record.json").read_text(encoding="utf-8"))
    kept["sha256"] = hashlib.sha256((level / "candidates/model.onnx").read_bytes()).hexdigest()
    (level / "candidates/record.json").write_text(json.dumps(kept), encoding="utf-8")
    (level / "export.json").unlink()
    before = snapshot(project / "exports")
    answer = ask("export", "tiny.yaml", "--target", "0.3", at=project)
    assert "gates failed, so nothing was published" in answer.refusal(1)
    assert any("FAILED" in line and "logit_difference" in line for line in answer.out.splitlines())
    assert snapshot(project / "exports") == before


def test_json_is_the_only_thing_on_standard_output(ask: Ask, project: Path) -> None:
    """A script reads it; notes of ours or of a library would break it."""
    level = ["tiny.yaml", "--target", "0.3"]
    shutil.rmtree(project / ".cache")  # so that there is something to say
    answers = {
        name: ask(*arguments, "--json", at=project)
        for name, arguments in {
            "train": ["train", "tiny.yaml"],
            "prune": ["prune", *level],
            "preview": ["prune", *level, "--dry-run"],
            "audit": ["audit", *level],
            "export": ["export", *level],
            "list": ["list", "tiny.yaml"],
            "verify": ["verify", "exports/tiny-s30"],
            "pull": ["pull", "exports", "--to", "bundles"],
        }.items()
    }
    assert {name: answer.code for name, answer in answers.items()} == dict.fromkeys(answers, 0)
    assert {name: answer.err for name, answer in answers.items()} == dict.fromkeys(answers, "")
    values = {name: json.loads(answer.out) for name, answer in answers.items()}
    assert values["train"]["made"] is False
    assert [level["level"] for level in values["prune"]["levels"]] == ["s30"]
    assert values["preview"]["plans"][0]["target"] == 0.3
    assert values["audit"]["s30"]["macs_fvcore"] < values["audit"]["dense"]["macs_fvcore"]
    assert values["export"]["bundles"][0]["up_to_date"] is True
    assert values["list"] == {"recipe": "tiny", "levels": ["s30"], "bundles": ["tiny-s30"]}
    assert values["verify"]["passed"] is True
    assert values["pull"]["folder"] == "bundles/tiny-s30"


def test_json_of_a_run_that_did_work_is_still_one_value(ask: Ask, project: Path) -> None:
    change_recipe(project, recover={"alpha": 0.25})
    (project / "models/tiny/record.json").unlink()
    answers = [ask(command, "tiny.yaml", "--json", at=project) for command in ("train", "prune")]
    assert [(answer.code, answer.err) for answer in answers] == [(0, "")] * 2
    assert json.loads(answers[0].out)["made"] is True
    assert json.loads(answers[1].out)["run"].startswith("runs/")


@pytest.mark.long
def test_json_of_an_export_is_still_one_value(ask: Ask, project: Path) -> None:
    """torch's exporter and onnxsim like to print."""
    change_recipe(project, export={"dynamic_batch": True})
    answer = ask("export", "tiny.yaml", "--target", "0.3", "--json", at=project)
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out)["bundles"][0]["up_to_date"] is False


def test_what_cannot_be_done_puts_no_json_out(ask: Ask, tmp_path: Path) -> None:
    for command in COMMANDS:
        missing = {
            "verify": ["nowhere"],
            "pull": ["nowhere"],
            "demo": ["nowhere", "nowhere.jpg"],
            "devices": ["show", "nowhere"],
            "data": ["pack", "nowhere.yaml"],
        }
        arguments = missing.get(command, ["nowhere.yaml"])
        answer = ask(command, *arguments, "--json", at=tmp_path)
        answer.refusal()
        assert answer.out == ""


def test_text_names_what_is_there(ask: Ask, project: Path) -> None:
    assert ask("list", "tiny.yaml", at=project).out == "levels of tiny: s30\nbundles: tiny-s30\n"
    assert "Every level is up to date." in ask("prune", "tiny.yaml", at=project).out
    assert ask("export", "tiny.yaml", "--target", "all", at=project).out == "exports/tiny-s30: up to date\n"
    assert "about " in ask("prune", "tiny.yaml", "--dry-run", at=project).out
    assert "peak activation bytes" in ask("audit", "tiny.yaml", at=project).out
    assert "models/tiny: up to date" in ask("train", "tiny.yaml", at=project).out


def test_a_preview_changes_nothing(ask: Ask, project: Path) -> None:
    ask("audit", "tiny.yaml", at=project)  # decodes the images of this copy
    before = snapshot(project)
    assert ask("prune", "tiny.yaml", "--target", "0.6", "--dry-run", at=project).code == 0
    assert snapshot(project) == before


def test_a_run_that_diverges_is_a_bad_level_and_no_traceback(ask: Ask, project: Path) -> None:
    """A learning rate of 1e9 makes every weight NaN, which JSON cannot even hold."""
    change_recipe(project, recover={"lr": 1e9, "lr_high": 1e9}, prune={"max_drop": 0.0})
    answer = ask("prune", "tiny.yaml", "--json", at=project)
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out)["levels"][0]["val_accuracy"] < 0.7


@pytest.mark.long
def test_a_level_that_diverged_is_never_published(ask: Ask, project: Path) -> None:
    change_recipe(project, recover={"lr": 1e9, "lr_high": 1e9})
    before = snapshot(project / "exports")
    assert ask("prune", "tiny.yaml", at=project).code == 0
    answer = ask("export", "tiny.yaml", "--target", "0.3", at=project)
    answer.refusal(1)
    assert any("finite" in line and "FAILED" in line for line in answer.out.splitlines())
    answer = ask("export", "tiny.yaml", "--target", "all", "--json", at=project)
    assert "gates failed" in answer.refusal(1)
    assert json.loads(answer.out)["bundles"] == []
    assert json.loads(answer.out)["failed"][0]["level"] == "s30"
    assert snapshot(project / "exports") == before


# What the machine does to us


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Files beyond a size fail like files on a full disk: as an error of the system, in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_while_publishing_leaves_the_old_bundle_and_no_half_one(ask: Ask, project: Path) -> None:
    bundle = project / "exports/tiny-s30"
    (project / "models/tiny-s30/export.json").unlink()  # so that it is published again; the candidate is there
    before = snapshot(project / "exports")
    with largest_file((bundle / "model.onnx").stat().st_size - 1):
        error = ask("export", "tiny.yaml", "--target", "0.3", at=project).refusal(1)
    assert "exports/tiny-s30 needs" in error
    assert "nothing was changed" in error
    assert snapshot(project / "exports") == before
    assert ask("verify", "exports/tiny-s30", "--require", "all", at=project).code == 0


def test_a_full_disk_while_pruning_is_a_sentence_and_the_same_command_goes_on(ask: Ask, project: Path) -> None:
    change_recipe(project, recover={"alpha": 0.25})
    weights = (project / "models/tiny-s30/model.safetensors").read_bytes()
    with largest_file(1_000_000):
        assert "could not be written" in ask("prune", "tiny.yaml", at=project).refusal(1)
    assert (project / "models/tiny-s30/model.safetensors").read_bytes() == weights
    assert not list((project / "models").glob(".*"))
    assert ask("prune", "tiny.yaml", at=project).code == 0
    assert (project / "models/tiny-s30/model.safetensors").read_bytes() != weights


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("models", ["train", "tiny.yaml"]),
        ("runs", ["prune", "tiny.yaml"]),
        pytest.param("exports", ["export", "tiny.yaml", "--target", "0.3"], marks=pytest.mark.long),
        (".cache", ["prune", "tiny.yaml"]),
    ],
)
def test_a_file_where_a_folder_belongs_is_a_sentence(ask: Ask, project: Path, place: str, command: list[str]) -> None:
    if place == "runs":
        change_recipe(project, recover={"alpha": 0.25})
    shutil.rmtree(project / place)
    (project / place).write_bytes(b"in the way")
    assert place in ask(*command, at=project).refusal()
    assert (project / place).read_bytes() == b"in the way"


@pytest.mark.parametrize("command", ["train", "prune", "audit", "export", "list"])
@pytest.mark.parametrize("missing", [["torch"], ["torch", "numpy", "onnxruntime"]], ids=["verify only", "base"])
def test_a_missing_package_names_the_extra_that_brings_it(made: Path, command: str, missing: list[str]) -> None:
    """The base install has no torch on purpose: whoever types `prune` there must learn what to install."""
    code = (
        "import sys; names = sys.argv.pop(1).split(',')\n"
        "sys.modules.update(dict.fromkeys(names)); from edgeprune.cli import main; main()"
    )
    target = ["--target", "0.3"] if command == "export" else []
    error = run_python("-c", code, ",".join(missing), command, "tiny.yaml", *target, at=made).refusal()
    assert f"`edgeprune {command}` needs the package torch, which is not installed here." in error
    assert "pip install 'edgeprune[prune]'" in error


@pytest.mark.parametrize("arguments", [["--help"], ["verify", "exports/tiny-s30"]])
def test_a_reader_that_went_away_is_no_traceback_and_no_success(made: Path, arguments: list[str]) -> None:
    """`edgeprune verify ... | head -1` must not look like a verdict, whatever pipefail makes of it."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [*EDGEPRUNE, *arguments], cwd=made, env=ENVIRONMENT, stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert done.stderr == b""
    assert done.returncode == 141


def test_the_module_is_the_same_command(tmp_path: Path) -> None:
    assert "TARGET=60 is outside (0, 1)" in run_edgeprune("prune", "--target", "60", at=tmp_path).refusal()
