"""The card and the size report: what a stranger reads, runs and believes."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_factory import CLASSES, ask_model, embedded_facts, facts_for, golden_for, metadata, publish, write_model

from edgeprune.formats import encode_json
from edgeprune.publish.card import render_card
from edgeprune.publish.facts import BundleFacts
from edgeprune.publish.size_report import render_size_report, size_values


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", metadata().as_text())


@pytest.fixture(scope="module")
def facts(model: Path) -> BundleFacts:
    return facts_for(model)


@pytest.fixture(scope="module")
def embedded(facts: BundleFacts) -> BundleFacts:
    """The same level with TFLite files, devices and an NPU."""
    return embedded_facts(facts)


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


def test_no_fact_is_left_unfilled(facts: BundleFacts, embedded: BundleFacts) -> None:
    for text in (*_texts(facts), *_texts(embedded)):
        assert not re.search(r"\bNone\b|\bnan\b|[A-Za-z]+\(|dataclass", _without_code(text))
        assert "  \n" not in text
        assert text.endswith("\n")


def _texts(facts: BundleFacts) -> tuple[str, str]:
    return render_card(facts, c_source=True), render_size_report(facts)


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def test_every_table_has_as_many_cells_in_each_row_as_in_its_head(facts: BundleFacts, embedded: BundleFacts) -> None:
    """A class called `a|b` would shift a column of figures under the wrong head."""
    facts = dataclasses.replace(facts, classes=("a|b", "c"))
    for text in (*_texts(facts), *_texts(embedded)):
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
    assert [(file["path"], file["bytes"]) for file in stored["files"]] == [("model.onnx", model.stat().st_size)]
    assert stored["dense"]["macs"] == facts.dense.costs.macs == sum(stored["dense"]["macs_by_operator"].values())
    assert stored["macs_counter"] == "fvcore"
    assert stored["pruned"]["macs_by_block"]["features.4"] == 4_987_136
    assert stored["files"][0]["latency"]["ratio_high"] == 0.713


@pytest.mark.parametrize(
    "fact",
    [
        "| `model_int8_rot180.tflite`, bytes | 1,810,448 | 1,107,760 | -38.8 % |",
        "| `model_rot180.tflite`, bytes |  | 3,758,736 |  |",
        "| `model_int8_rot180.tflite`, arena, bytes | 143,728 | 135,168 | -6.0 % |",
        "| `model_int8_rot180.tflite`, of that the head (activations), bytes | 73,728 | 73,728 | 0.0 % |",
        "| `model_int8_rot180.tflite`, layer at the peak | `features.0` | `features.0` |  |",
        "a 64-bit host",
        "-0.19 points against `model_rot180.tflite`, exact McNemar p = 0.875; calibrated by percentile_90",
        "| STM32F746G-DISCO (`stm32f746`) | **no** | 167,936 | 327,680 | 73,728 | 61,440 | 32,768 | 1,257,760 | "
        "1,048,576 | 1,107,760 | 150,000 | 45.2 |",
        "- `stm32f746`: Flash is short of 209,184 bytes; a higher target helps.",
        "- `stm32f746`: a public measurement",
        "| Odd \\| Board (`odd`) | as far as known | 167,936 | not published |",
        "never a measurement",
        "| inferences per second, Vela's estimate | 268.4 |",
        "| operators left to the CPU | 0 |",
        "`ethos-u55-128`, system configuration `Ethos_U55_High_End_Embedded`, memory mode `Shared_Sram`",
        "Arena head with PAD operators 90,144 bytes, without 73,728: 16,416 bytes saved (18.2 %)",
        "| `HARD_SWISH` | 4 | 0 |",
        "| 0 | `CONV_2D` | `features.0.0` | 32.1 | 4,359.2 | -3 to 7.25 |",
        "| 1 | `RESHAPE` |  | exact |  | -3 to 7.25 |",
        "- Rows raised to 1e-3 of the layer's largest weight: 75.0 to 79.0 % on val.",
    ],
)
def test_the_size_report_states_for_a_device(fact: str, embedded: BundleFacts) -> None:
    assert fact in render_size_report(embedded)


def test_the_size_report_begins_with_what_an_embedded_engineer_asks_first(embedded: BundleFacts) -> None:
    """Flash and RAM stand above everything about how the network is built."""
    text = render_size_report(embedded)
    order = [
        "`model_int8_rot180.tflite`, bytes",
        "`model_int8_rot180.tflite`, arena, bytes",
        "## Does it fit?",
        "## Ethos-U",
        "## Operators",
        "## Int8 against float",
        "## Multiply-accumulates by block",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_what_a_bundle_does_not_have_is_not_in_its_report(facts: BundleFacts) -> None:
    for text in (render_card(facts), render_size_report(facts)):
        assert not re.search(r"TFLite|arena|Ethos|rotat|fit\?|\bint8", text)


def test_one_device_that_was_asked_for_is_named(embedded: BundleFacts) -> None:
    asked = dataclasses.replace(embedded, device="stm32f746", fits=embedded.fits[:1])
    assert "For the device asked for, `stm32f746`" in render_size_report(asked)
    assert "For every device profile" in render_size_report(embedded)


def test_figures_that_json_cannot_hold_are_text_in_it(embedded: BundleFacts) -> None:
    """An operator that loses nothing has an infinite SQNR, and one without signal none."""
    values = size_values(embedded)
    int8 = json.loads(encode_json(values))["files"][2]
    assert [figure["sqnr_db"] for figure in int8["operator_figures"]] == [32.1, "inf"]
    assert int8["arena"]["head_bytes"] == 73_728
    assert values["npu"]["inferences_per_second"] == 268.4
    assert values["fits"][0]["problems"] == ["Flash is short of 209,184 bytes; a higher target helps."]


def test_a_rotated_file_is_announced_where_it_is_run(embedded: BundleFacts) -> None:
    """A model that is fed upright images answers without an error, and worse."""
    card = render_card(embedded, c_source=True)
    assert "must be fed the image rotated by 180 degrees" in card
    assert "pixels = pixels[::-1, ::-1]" in card
    assert "`c/README.md`" in card
    assert "`c/" not in render_card(embedded)
    for file in embedded.files:
        assert f"| `{file.path}` | {file.layout}" in card
