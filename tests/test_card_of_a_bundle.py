"""The card and the size report: what a stranger reads, runs and believes."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_factory import CLASSES, ask_model, facts_for, golden_for, metadata, publish, write_model

from edgeprune.publish.card import render_card
from edgeprune.publish.facts import BundleFacts
from edgeprune.publish.size_report import render_size_report, size_values


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", metadata().as_text())


@pytest.fixture(scope="module")
def facts(model: Path) -> BundleFacts:
    return facts_for(model)


def _snippet(card: str) -> str:
    found = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_snippet_of_the_card_runs_and_prints_the_answer(model: Path, tmp_path: Path) -> None:
    """It is the first thing a stranger does, with numpy and onnxruntime alone, from inside the folder."""
    folder = publish(tmp_path, model).folder
    snippet = _snippet((folder / "README.md").read_text())
    assert len(snippet.strip().splitlines()) <= 10
    assert max(map(len, snippet.splitlines())) <= 120
    modules = re.findall(r"^(?:import|from) (.*)$", snippet, flags=re.MULTILINE)
    assert set(", ".join(modules).split(", ")) <= {"json", "pathlib", "numpy", "onnxruntime"}
    blocked = "import sys\nfor name in ('torch', 'edgeprune', 'onnx'): sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocked + snippet], cwd=folder, capture_output=True, text=True, check=True
    )
    logits = ask_model(model, golden_for(model).images[:1])[0].astype(np.float64)
    probability = np.exp(logits) / np.exp(logits).sum()
    label, printed = done.stdout.split()
    assert label == CLASSES[int(logits.argmax())]
    assert float(printed) == pytest.approx(probability.max(), abs=2e-4)


@pytest.mark.parametrize(
    "fact",
    [
        "elpv96-s60",
        "mobilenet_v3_small",
        "60.35 %",
        "functional",
        "0.8308 (0.7964 to 0.8604)",
        "n=526",
        "val has 394",
        "p = 0.62",
        "balanced accuracy",
        "| ROC AUC, test | 0.8712 | 0.8712 |",
        "1,519,906",
        "fvcore",
        "peak activations",
        "x 0.706 (0.700 to 0.713)",
        "onnxruntime 1.32.0, 1 thread, a processor",
        "CC BY-NC-SA 4.0",
        "f" * 64,
        "d" * 64,
        "e" * 64,
        "l1_norm",
        "multiples of 8",
        "IMAGENET1K_V1",
        "whole image squashed to the square, antialiased bilinear",
        "edgeprune verify elpv96-s60",
        "## Limits",
    ],
)
def test_the_card_states(fact: str, facts: BundleFacts) -> None:
    assert fact in render_card(facts)


def test_no_fact_is_left_unfilled(facts: BundleFacts) -> None:
    for text in (render_card(facts), render_size_report(facts)):
        assert not re.search(r"\bNone\b|\bnan\b|[A-Za-z]+\(|dataclass", text.replace(_text_of_code(text), ""))
        assert "  \n" not in text
        assert text.endswith("\n")


def _text_of_code(text: str) -> str:
    return "".join(re.findall(r"```.*?```", text, flags=re.DOTALL))


def test_every_table_has_as_many_cells_in_each_row_as_in_its_head(facts: BundleFacts) -> None:
    """A class called `a|b` would shift a column of figures under the wrong head."""
    facts = dataclasses.replace(facts, classes=("a|b", "c"))
    for text in (render_card(facts), render_size_report(facts)):
        width = None
        for line in text.splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
            assert width is None or cells is None or cells == width, line
            width = cells


def test_padded_macs_are_stated_beside_planned_ones_only_when_they_differ(facts: BundleFacts) -> None:
    assert "zero-padded" not in render_size_report(facts)
    padded = dataclasses.replace(facts, file_macs=6_543_210)
    assert "| MACs of the file, channels zero-padded | 11,568,384 | 6,543,210 | -43.4 % |" in render_size_report(padded)
    assert "6,543,210 MACs" in render_card(padded)
    assert size_values(padded)["file_macs"] == 6_543_210


def test_a_difference_that_chance_does_not_explain_is_called_one(facts: BundleFacts) -> None:
    assert "no difference beyond chance" in render_card(facts)
    assert "more than chance explains" in render_card(dataclasses.replace(facts, paired_p=0.001))


def test_the_size_report_has_every_block_and_operator_with_its_change(facts: BundleFacts) -> None:
    text = render_size_report(facts)
    assert re.search(r"features\.4 +█{13,15}░{11,15} +9,974,272 -> +4,987,136 +-50\.0 %", text)
    assert "| `linear` | 591,872 | 591,872 | 0.0 % |" in text
    assert "| all | 11,568,384 | 6,080,128 | -47.4 % |" in text
    bars = [line for line in text.splitlines() if "█" in line and "->" in line]
    assert len(bars) >= 4
    assert len({line.index("->") for line in bars}) == 1


def test_the_size_report_as_json_says_the_same(facts: BundleFacts, model: Path, tmp_path: Path) -> None:
    stored = json.loads((publish(tmp_path, model).folder / "size_report.json").read_text())
    assert stored["pruned"]["file_bytes"] == {"model.onnx": model.stat().st_size}
    assert stored["dense"]["macs"] == facts.dense.costs.macs == sum(stored["dense"]["macs_by_operator"].values())
    assert stored["macs_counter"] == "fvcore"
    assert stored["pruned"]["macs_by_block"]["features.4"] == 4_987_136
    assert stored["latency"]["ratio_high"] == 0.713
