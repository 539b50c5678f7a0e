"""The layer rule: import-linter's contracts in pyproject.toml, and what import-linter cannot see."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edgeprune"
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
# These need the extra `prune`. All others, new ones included, must import in the base install.
HEAVY = (
    "absorb",
    "audit",
    "batchnorm",
    "data",
    "dependencies",
    "evaluation",
    "export",
    "learning",
    "masking",
    "pipeline",
    "plan",
    "prune",
    "quantise",
    "recover",
    "teacher",
    "train",
    "zoo",
)
EXTRAS = (
    "ai_edge_litert",
    "ethosu",
    "executorch",
    "fvcore",
    "litert_torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "PIL",
    "matplotlib",
    "scipy",
    "sklearn",
    "tflite_micro",
    "torch",
    "torch_pruning",
    "torchao",
)

every_module = pytest.mark.parametrize("module", MODULES)


def nodes_of(module: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))))


def test_every_import_contract_is_kept() -> None:
    """A stage that imports no other can be read, tested and replaced alone."""
    linter = Path(sys.executable).with_name("lint-imports")
    linted = subprocess.run([linter, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_the_base_install_can_import_all_that_is_meant_for_it() -> None:
    """Torch at the top of one module would cost `edgeprune --help` two seconds, and `pull` a gigabyte."""
    dotted = [f"edgeprune.{module.removesuffix('.py').replace('/', '.')}" for module in MODULES]
    meant = [name.removesuffix(".__init__") for name in dotted if name.split(".")[1] not in (*HEAVY, "__main__")]
    # None in sys.modules makes an import fail as if the package were not installed.
    program = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"
        f"for name in {meant!r}:\n"
        "    importlib.import_module(name)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "edgeprune.recipe" in meant
    assert run.returncode == 0, run.stderr


@every_module
def test_no_module_unpickles(module: str) -> None:
    """Unpickling runs code that the file brings; `torch.load` and numpy's `allow_pickle` do it without saying so.

    The contracts forbid the module pickle itself.
    """
    unpickling = ("torch.load", "from torch import load", "allow_pickle=True")
    statements = [ast.unparse(node) for node in nodes_of(module) if isinstance(node, ast.expr | ast.keyword | ast.stmt)]
    assert [statement for statement in statements if statement in unpickling] == []


@every_module
def test_no_import_is_relative(module: str) -> None:
    """A full name can be searched for, and says which layer it reaches into."""
    assert [node.lineno for node in nodes_of(module) if isinstance(node, ast.ImportFrom) and node.level] == []


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("cli")])
def test_only_the_command_line_prints(module: str) -> None:
    """A stage that prints cannot be used with --json, nor in somebody else's program."""
    prints = {"print", "sys.stdout.write", "sys.stderr.write", "input"}
    calls = [node for node in nodes_of(module) if isinstance(node, ast.Call) and ast.unparse(node.func) in prints]
    assert [node.lineno for node in calls] == []
