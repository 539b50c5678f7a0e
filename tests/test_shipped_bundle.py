"""The person detector that comes with a clone: good, whole, small, and without a photograph."""

import json
import subprocess
from pathlib import Path

from edgeprune.verify.bundle import verify_bundle

ROOT = Path(__file__).parent.parent
BUNDLE = ROOT / "exports" / "person96"


def sizes() -> dict[str, object]:
    values: dict[str, object] = json.loads((BUNDLE / "size_report.json").read_text(encoding="utf-8"))
    return values


def test_it_is_what_was_published() -> None:
    check = verify_bundle(BUNDLE)
    assert check.passed, [gate for gate in check.gates if not gate.passed]
    assert check.complete


def test_it_keeps_to_the_budget_of_its_recipe() -> None:
    """Half of the multiply-accumulates of MLPerf Tiny's reference, three quarters of its bytes."""
    (int8,) = [file for file in sizes()["files"] if file["path"] == "model_int8.tflite"]  # type: ignore[attr-defined]
    assert int8["bytes"] == (BUNDLE / "model_int8.tflite").stat().st_size <= 250_000
    assert int8["arena"]["head_bytes"] <= 48 * 1024
    assert sizes()["pruned"]["macs"] <= 3_740_000  # type: ignore[index]


def test_its_golden_images_are_drawn() -> None:
    """Photographs of the data sets may not be passed on."""
    golden = json.loads((BUNDLE / "golden" / "golden.json").read_text(encoding="utf-8"))
    assert golden["images"]
    assert all(image["name"].startswith("drawn-") for image in golden["images"])


def test_all_of_it_is_in_the_repository_and_little() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "exports/person96"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    files = [path for path in BUNDLE.rglob("*") if path.is_file()]
    assert sorted(tracked) == sorted(path.relative_to(ROOT).as_posix() for path in files)
    assert sum(path.stat().st_size for path in files) <= 3_000_000
