"""Run directories are continued, not repeated, and the journal belongs to the person who writes in it."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.runs import RunDirectory, add_journal_entry, describe_changes, open_run, previous_config

NOON = datetime(2026, 11, 23, 12, 0, 0)


def start(runs: Path, *, config: str = "name: a\n", name: str = "a", minutes: int = 0) -> RunDirectory:
    return open_run(runs, name=name, kind="prune", config_yaml=config, now=NOON + timedelta(minutes=minutes))


def tell(journal: Path, run: RunDirectory, *, changes: str = "(first run)", goal: str = "try it") -> None:
    add_journal_entry(
        journal, run=run, goal=goal, changes=changes, result=["target accuracy", "0.1 0.8"], analysis=["a fact"]
    )


def test_a_run_directory_is_named_by_date_and_keeps_its_recipe(tmp_path: Path) -> None:
    run = start(tmp_path)
    assert run.id == "2026-11-23_12-00-00_a_prune"
    assert (run.path / "config.yaml").read_text() == "name: a\n"
    assert not (run.path / "log.txt").exists()


def test_an_unfinished_run_of_the_same_recipe_is_continued_and_says_so(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.log("Removing 228 channels")
    again = start(tmp_path, minutes=7)
    assert again == run
    assert (run.path / "log.txt").read_text() == "Removing 228 channels\nResumed at 2026-11-23 12:07:00\n"


def test_the_newest_unfinished_run_is_the_one_that_continues(tmp_path: Path) -> None:
    config, other = "name: a\nseed: 1\n", "name: a\nseed: 2\n"
    first = start(tmp_path, config=config)
    start(tmp_path, config=other, minutes=1)
    first.finish({})
    second = start(tmp_path, config=config, minutes=2)
    assert start(tmp_path, config=config, minutes=3) == second != first


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.finish({"levels": []})
    again = start(tmp_path, minutes=1)
    assert again.id == "2026-11-23_12-01-00_a_prune"
    assert not (run.path / "log.txt").exists()


def test_a_run_that_starts_in_the_second_of_a_finished_one_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    """A short run, started twice by a script, must not write into its own past."""
    run = start(tmp_path)
    run.finish({"levels": [1]})
    again = start(tmp_path, config="name: a\nseed: 2\n")
    assert again.path != run.path
    assert (run.path / "config.yaml").read_text() == "name: a\n"


def test_another_recipe_or_name_never_continues_a_run(tmp_path: Path) -> None:
    run = start(tmp_path, config="name: b\n", name="b")
    others = [
        start(tmp_path, config="name: b\nseed: 1\n", name="b", minutes=1),
        start(tmp_path, config="name: x_b\n", name="x_b", minutes=2),
        open_run(tmp_path, name="b", kind="train", config_yaml="name: b\n", now=NOON + timedelta(minutes=3)),
    ]
    assert len({run.path, *(other.path for other in others)}) == 4


def test_measurements_are_one_json_value_a_line(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.record(level="s10", epoch=1)
    run.record(level="s10", epoch=2)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_the_previous_recipe_is_that_of_the_last_finished_run_before(tmp_path: Path) -> None:
    first = start(tmp_path, config="seed: 1\n")
    first.finish({})
    start(tmp_path, config="seed: 2\n", minutes=1)  # never finished
    third = start(tmp_path, config="seed: 3\n", minutes=2)
    later = start(tmp_path, config="seed: 4\n", minutes=3)
    later.finish({})
    (tmp_path / "2026-11-23_12-01-30_notes").mkdir()
    (tmp_path / "0.txt").write_text("not a run")
    assert previous_config(tmp_path, third) == {"seed": 1}
    assert previous_config(tmp_path, first) is None


def test_changes_name_the_key_the_new_and_the_old_value() -> None:
    before = {"name": "a", "prune": {"targets": [0.1, 0.2], "importance": "bn_gamma"}, "recover": {"lr": 0.1}}
    after = {"name": "a", "prune": {"targets": [0.1], "importance": "l1_norm"}, "recover": {"lr": None}}
    assert describe_changes(before, after) == [
        "prune.targets: [0.1] (from [0.1, 0.2])",
        "prune.importance: l1_norm (from bn_gamma)",
        "recover.lr: unset (from 0.1)",
    ]


def test_a_key_that_appeared_or_went_is_a_change() -> None:
    """Recipes of two versions of edgeprune differ in their keys."""
    assert describe_changes({"a": {"old": 1}}, {"a": {"new": 2}}) == ["a.new: 2 (from unset)", "a.old: unset (from 1)"]


values = st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
recipes = st.fixed_dictionaries({key: st.fixed_dictionaries({"x": values, "y": values}) for key in "ab"})


@given(recipes, recipes)
def test_there_is_a_line_for_every_value_that_differs_and_for_no_other(
    before: dict[str, dict[str, object]], after: dict[str, dict[str, object]]
) -> None:
    keys = [(section, key) for section in "ab" for key in "xy"]
    differing = [f"{section}.{key}" for section, key in keys if before[section][key] != after[section][key]]
    assert sorted(line.partition(":")[0] for line in describe_changes(before, after)) == differing


def test_a_journal_entry_has_the_logs_headings_in_order(tmp_path: Path) -> None:
    journal = tmp_path / "JOURNAL.md"
    tell(journal, start(tmp_path / "runs"), changes="recover.epochs: 12 (from 10)")
    text = journal.read_text()
    headings = ["**Run:**", "**Goal:**", "**Change vs prev:**", "**Config:**", "**Result:**", "**Analysis:**"]
    positions = [text.index(heading) for heading in headings]
    assert positions == sorted(positions)
    assert "recover.epochs: 12 (from 10)" in text
    assert "runs/2026-11-23_12-00-00_a_prune/config.yaml" in text
    assert "target accuracy\n0.1 0.8\n" in text
    assert "- a fact\n" in text


def test_an_entry_is_written_once(tmp_path: Path) -> None:
    """A run that was interrupted between journal and results tells its story again."""
    journal, run = tmp_path / "JOURNAL.md", start(tmp_path / "runs")
    tell(journal, run)
    text = journal.read_text()
    tell(journal, run)
    assert journal.read_text() == text


def test_a_goal_that_is_missing_is_said_to_be_missing(tmp_path: Path) -> None:
    tell(tmp_path / "JOURNAL.md", start(tmp_path / "runs"), goal="")
    assert "**Goal:** (none stated in the recipe)" in (tmp_path / "JOURNAL.md").read_text()


@pytest.mark.parametrize(
    "words",
    [
        b"What a surprise at 40 %.\n",
        b"written on Windows\r\nin two lines\r\n",
        b"no newline at the end",
        "grüße \u2028 \x85 separators\n".encode(),
        b"in latin-1: gr\xfc\xdfe\n",
    ],
    ids=["plain", "CRLF", "no newline", "separators", "latin-1"],
)
def test_a_persons_own_words_are_never_touched(tmp_path: Path, words: bytes) -> None:
    """Not one byte of them, whatever editor they come from."""
    journal = tmp_path / "JOURNAL.md"
    tell(journal, start(tmp_path / "runs"))
    with journal.open("ab") as file:
        file.write(words)
    before = journal.read_bytes()
    tell(journal, start(tmp_path / "runs", config="seed: 2\n", minutes=1))
    after = journal.read_bytes()
    assert after.startswith(before)
    assert b"**Run:** 2026-11-23_12-01-00_a_prune" in after[len(before) :]
