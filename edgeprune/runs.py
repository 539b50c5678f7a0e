"""Run directories and the journal: what a person would otherwise keep by hand.

A run directory holds ``config.yaml`` (the effective recipe), ``log.txt``, ``metrics.jsonl`` and, once the run has
ended well, ``results.json``. A directory without results belongs to a run that was interrupted; the same recipe
continues in it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from edgeprune.files import write_atomic, write_json

_CONFIG, _LOG, _METRICS, _RESULTS = "config.yaml", "log.txt", "metrics.jsonl", "results.json"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run's folder, ``runs/<date>_<time>_<name>_<kind>``."""

    path: Path

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    def log(self, line: str) -> None:
        """Append a line to log.txt."""
        self._append(_LOG, line)

    def record(self, **values: Any) -> None:
        """Append one measurement to metrics.jsonl, as JSON."""
        self._append(_METRICS, json.dumps(values, sort_keys=True))

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write results.json; the run has ended well."""
        write_json(self.path / _RESULTS, results)

    def _append(self, name: str, line: str) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def unfinished_run(runs: Path, *, name: str, kind: str, config_yaml: str) -> RunDirectory | None:
    """The run of the same effective recipe that was interrupted, or None."""
    for path in sorted(runs.glob(f"*_{name}_{kind}"), reverse=True):
        unfinished = not (path / _RESULTS).exists() and (path / _CONFIG).is_file()
        if unfinished and (path / _CONFIG).read_text(encoding="utf-8") == config_yaml:
            return RunDirectory(path)
    return None


def open_run(runs: Path, *, name: str, kind: str, config_yaml: str, now: datetime) -> RunDirectory:
    """The unfinished run of the same effective recipe, or a new run directory.

    Args:
        runs: folder of all runs.
        name: of the recipe.
        kind: what the run does (``prune``).
        config_yaml: the effective recipe.
        now: start of a new run.
    """
    run = unfinished_run(runs, name=name, kind=kind, config_yaml=config_yaml)
    if run is not None:
        run.log(f"Resumed at {now:%Y-%m-%d %H:%M:%S}")
        return run
    while (path := runs / f"{now:%Y-%m-%d_%H-%M-%S}_{name}_{kind}").exists():
        # Two runs in one second: the later one is named after the next free second, never mixed with the other.
        now += timedelta(seconds=1)
    write_atomic(path / _CONFIG, config_yaml)
    return RunDirectory(path)


def previous_config(runs: Path, run: RunDirectory) -> dict[str, Any] | None:
    """The effective recipe of the last finished run before this one, or None for the first."""
    for path in sorted((path for path in runs.iterdir() if path.name < run.id), reverse=True):
        if (path / _RESULTS).exists() and (path / _CONFIG).is_file():
            try:
                values = yaml.safe_load((path / _CONFIG).read_text(encoding="utf-8"))
            except (UnicodeDecodeError, yaml.YAMLError):
                continue  # somebody edited it; a finished run must not fail over an older one's notes
            return values if isinstance(values, dict) else None
    return None


def describe_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two recipes, one line a key, in the journal's wording.

    >>> describe_changes({"recover": {"epochs": 10, "lr": 0.1}}, {"recover": {"epochs": 12, "lr": 0.1}})
    ['recover.epochs: 12 (from 10)']
    """
    old, new = dict(_flatten(before)), dict(_flatten(after))
    return [
        f"{key}: {_show(new.get(key))} (from {_show(old.get(key))})"
        for key in dict.fromkeys((*new, *old))
        if new.get(key) != old.get(key)
    ]


def add_journal_entry(
    journal: Path, *, run: RunDirectory, goal: str, changes: str, result: Iterable[str], analysis: Iterable[str]
) -> None:
    """Append a run's entry to the journal; what stands there already is never touched.

    Args:
        journal: JOURNAL.md, made when it does not exist.
        run: the finished run.
        goal: from the recipe.
        changes: the diff against the previous run's recipe.
        result: the closing table.
        analysis: facts that the tool can state. A line for a person's own words follows them.
    """
    # As bytes: reading as text would change a person's line endings, and refuse what is no UTF-8.
    before = journal.read_bytes() if journal.exists() else b"# Journal of runs\n"
    if f"**Run:** {run.id}\n".encode() in before:
        return
    facts = "\n".join(f"- {fact}" for fact in analysis)
    entry = (
        f"\n---\n\n**Run:** {run.id}\n\n**Goal:** {goal or '(none stated in the recipe)'}\n\n"
        f"**Change vs prev:**\n{changes}\n\n**Config:** runs/{run.id}/{_CONFIG}\n\n"
        "**Result:**\n```\n" + "\n".join(result) + f"\n```\n\n**Analysis:**\n{facts}\n\n"
        "*In your own words (never overwritten):*\n\n"
    )
    write_atomic(journal, before + entry.encode())


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _show(value: Any) -> str:
    return "unset" if value is None else json.dumps(value) if isinstance(value, list) else str(value)
