"""The README is executed: Start and Use by .ci/run, and here every command is at least understood."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from edgeprune.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands_of(section: str) -> list[str]:
    """Command lines of the shell blocks below a heading."""
    text = README.split(f"## {section}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_start_is_two_commands_and_continuous_integration_runs_both() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert commands_of("Start") == ["make prune export TARGET=0.6", "make test"]
    for command in commands_of("Start"):
        assert f"step {command}\n" in script


@pytest.mark.parametrize("line", commands_of("Use"))
def test_every_command_is_one_that_the_program_understands(line: str) -> None:
    program, command, *arguments = shlex.split(line)
    assert program == "edgeprune"
    group = typer.main.get_command(app)
    context = group.make_context("edgeprune", [command, *arguments])
    subcommand = group.get_command(context, command)  # type: ignore[attr-defined]
    assert subcommand is not None
    subcommand.make_context(command, arguments, parent=context)


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_no_link_leads_nowhere(target: str) -> None:
    assert target.startswith("http") or (ROOT / target).exists()


def test_every_recipe_key_in_the_table_exists() -> None:
    """A documented key that the strict recipe refuses would be the first thing a newcomer trips over."""
    from edgeprune.recipe import Recipe

    table = README.split("| key | what it does |")[1].split("\n\n")[0]
    section = ""
    for row in table.splitlines()[2:]:
        for key in re.findall(r"`([^`]+)`", row.split("|")[1]):
            section, _, name = key.rpartition(".") if "." in key else (section, "", key)
            assert name in Recipe.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


def test_no_figure_is_still_to_be_filled_in() -> None:
    assert "@@" not in README
