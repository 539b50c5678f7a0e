"""Fill the environment that runs this script, or compare it with constraints.txt. `make setup` calls it.

Imports the standard library only: it runs before anything is installed.

    python tools/environment.py install auto|cpu|default    torch's build: see `make help`
    python tools/environment.py check

Exit code 0 when done (`check` only warns), 1 when pip fails; pip's own words are above the sentence that says so.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def read_pins(path: Path = CONSTRAINTS) -> dict[str, str]:
    """Distribution name, normalised as pip does it, to the one version that is allowed."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {normalise(name): version for name, version in (line.split("==") for line in lines if line)}


def normalise(name: str) -> str:
    """The spelling that all spellings of a distribution's name share.

    >>> normalise("ruamel.yaml_CLIB")
    'ruamel-yaml-clib'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def find_differences(pins: dict[str, str], installed: dict[str, str]) -> list[str]:
    """One line for each distribution that is pinned, installed, and another version.

    A local part (`2.13.0+cpu`) names a build, not a version.

    >>> find_differences({"torch": "2.13.0", "rich": "15.0.0"}, {"torch": "2.9.1", "rich": "15.0.0"})
    ['torch 2.9.1 is installed, 2.13.0 is pinned']
    >>> find_differences({"torch": "2.13.0"}, {"torch": "2.13.0+cpu", "pip": "1"})
    []
    """
    return [
        f"{name} {version} is installed, {pins[name]} is pinned"
        for name, version in sorted(installed.items())
        if name in pins and version.split("+")[0] != pins[name]
    ]


def check_environment() -> None:
    """Say which versions differ from constraints.txt, and how to mend it."""
    installed = {normalise(each.name): each.version for each in importlib.metadata.distributions()}
    for difference in find_differences(read_pins(), installed):
        print(f"edgeprune: {difference} (constraints.txt); `make -B setup` installs the pinned one.", file=sys.stderr)


def install(torch_build: str) -> None:
    """Install edgeprune in place with the extra `dev`, which takes in all the others."""
    started = time.monotonic()
    cost = "" if _has_module("torch") else ": some minutes, once, and about 2 GB"
    print(f"edgeprune: setting up {sys.prefix} (Python {platform.python_version()}){cost}", flush=True)
    if not _has_module("pip"):  # environments made by uv have none
        added = subprocess.run([sys.executable, "-m", "ensurepip"], check=False, stdout=subprocess.DEVNULL)
        if added.returncode:
            raise SystemExit(f"edgeprune: {sys.prefix} has no pip.\n  try: install your system's package python3-venv")
    if _wants_cpu_index(torch_build):
        print(f"edgeprune: torch for the CPU only, from {CPU_INDEX}", flush=True)
        _install_cpu_torch(insist=torch_build == "cpu")
    _pip("install", "--editable", ".[dev]")
    print(f"edgeprune: ready after {time.monotonic() - started:.0f} s.", flush=True)


def _wants_cpu_index(torch_build: str) -> bool:
    # Only PyPI's Linux wheels bring CUDA (about 5 GB); elsewhere the plain wheel is the CPU one.
    if platform.system() != "Linux" or torch_build == "default":
        return False
    if torch_build == "cpu":
        return True
    if shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists() or _has_pinned_torch():
        return False
    return _answers(f"{CPU_INDEX}/torch/", seconds=5)


def _has_pinned_torch() -> bool:
    try:
        return importlib.metadata.version("torch").split("+")[0] == read_pins()["torch"]
    except importlib.metadata.PackageNotFoundError:
        return False


def _install_cpu_torch(*, insist: bool) -> None:
    pins = read_pins()
    wanted = [f"torch=={pins['torch']}{'+cpu' if insist else ''}", f"torchvision=={pins['torchvision']}"]
    # Without dependencies: that index has few of them, and in other versions; the main step adds them from PyPI.
    _pip("install", "--no-deps", "--index-url", CPU_INDEX, *wanted)


def _answers(url: str, seconds: float) -> bool:
    reached = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                reached.set()
        except OSError:
            pass

    # urllib's own limit leaves out the look-up of the name, which can hang for minutes behind a firewall.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return reached.is_set()


def _pip(*arguments: str) -> None:
    # Variables in place of `-c`, which does not reach what builds require; pip before 25.3 knows only the first.
    # It splits them at spaces, so the file is named from its own folder.
    constraints = {"PIP_CONSTRAINT": CONSTRAINTS.name, "PIP_BUILD_CONSTRAINT": CONSTRAINTS.name}
    environment = {**os.environ, **constraints, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # -qq: errors only. Warnings about a user's other package sources are not for this step to repeat.
    command = [sys.executable, "-m", "pip", *arguments, "-qq"]
    if subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode:
        print(f"edgeprune: `pip {' '.join(arguments)}` failed, so nothing is marked as set up.", file=sys.stderr)
        raise SystemExit("  try: mend what pip says above, then the same command again")


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["install", ("auto" | "cpu" | "default") as build]:
            install(build)
        case ["check"]:
            check_environment()
        case ["install", other]:
            raise SystemExit(f"edgeprune: TORCH={other} is not one of auto, cpu, default.\n  try: TORCH=auto")
        case _:
            raise SystemExit(__doc__)
