"""Vela on real int8 files, and the gates on what it says."""

import functools
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mcu_models import tiny_float, tiny_int8
from torch import nn

from edgeprune.embedded import NpuReport
from edgeprune.errors import EdgepruneError
from edgeprune.export.tflite_file import convert_network, strip_model
from edgeprune.export.tflite_int8 import choose_ranges, observe_ranges, quantise_model
from edgeprune.export.vela import NpuCompilation, compile_for_npu
from edgeprune.manifest import FileEntry, Manifest, make_manifest
from edgeprune.publish.device_table import npu_lines
from edgeprune.results import Gate
from edgeprune.tflite_format import operator_names, read_model
from edgeprune.verify.npu import check_npu
from edgeprune.verify.replay_tflite import check_npu_files
from edgeprune.zoo import torchvision_models
from edgeprune.zoo.same_padding import use_same_padding

U55 = {
    "accelerator": "ethos-u55-128",
    "system_config": "Ethos_U55_High_End_Embedded",
    "memory_mode": "Shared_Sram",
}


@functools.cache
def tiny_compiled() -> NpuCompilation:
    return compile_for_npu(tiny_int8(), stem="model_int8", **U55)


def int8_of(network: nn.Module, size: int) -> bytes:
    content = convert_network(network.eval(), image_size=size).content
    images = np.random.default_rng(0).normal(0, 1, (4, size, size, 3)).astype(np.float32)
    return strip_model(quantise_model(content, choose_ranges(content, observe_ranges(content, images), "min_max")))


@functools.cache
def with_elu() -> bytes:
    """An ELU becomes float operators between int8 ones, and an Ethos-U has none of those."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return int8_of(
            nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, 2)), 16
        )


def gates_of(report: NpuReport, **device: int | None) -> dict[str, Gate]:
    memory = {"sram_bytes": None, "flash_bytes": None} | device
    return {gate.name.removesuffix(":m"): gate for gate in check_npu(report, path="m", **memory)}


def bundle(folder: Path, **files: bytes) -> Manifest:
    """A folder with the int8 model and compiled files, and a manifest that lists what is there."""
    contents = {"model_int8.tflite": tiny_int8(), **{f"vela/{name}.tflite": value for name, value in files.items()}}
    entries = []
    for path, content in contents.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
        entries.append(
            FileEntry(
                path=path,
                sha256=hashlib.sha256(content).hexdigest(),
                bytes=len(content),
                role="npu" if path.startswith("vela/") else "model",
                media_type="application/octet-stream",
            )
        )
    return make_manifest(name="tiny", level="s30", version="0.1.0", files=entries)


def test_everything_of_an_int8_network_runs_on_the_npu() -> None:
    """Hard-swish, depthwise convolution, mean and linear are what the reference network is made of."""
    report = tiny_compiled().report
    assert report.cpu_operators == ()
    assert report.npu_operators == len(operator_names(read_model(tiny_int8())))
    assert report.version == "5.2.0"
    assert (report.accelerator, report.system_config, report.memory_mode) == tuple(U55.values())
    assert 0 < report.flash_bytes < report.file_bytes
    assert report.sram_bytes >= 32 * 32 * 3
    assert report.inferences_per_second > 0


def test_equal_input_gives_equal_bytes_that_name_no_path_of_this_machine() -> None:
    files = tiny_compiled().files
    assert set(files) == {"vela/model_int8_vela.tflite", "vela/model_int8_summary.csv"}
    assert compile_for_npu(tiny_int8(), stem="model_int8", **U55).files == files
    for content in files.values():
        assert b"/tmp" not in content
        assert str(Path.home()).encode() not in content
    assert files["vela/model_int8_summary.csv"].startswith(b"experiment,network,")


def test_what_vela_leaves_to_the_cpu_is_counted_in_the_file() -> None:
    """Vela succeeds all the same, and its throughput leaves that part out."""
    compiled = compile_for_npu(with_elu(), stem="elu", **U55)
    assert {"EXP", "SELECT"} <= set(compiled.report.cpu_operators)
    gate = gates_of(compiled.report)["npu_cpu_operators"]
    assert not gate.passed
    assert "1 EXP, " in gate.detail
    shown = "\n".join(npu_lines(compiled.report))
    assert f"| operators left to the CPU | {len(compiled.report.cpu_operators)} (`" in shown


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"system_config": "Ethos_U55_Lunar"}, "Section System_Config.Ethos_U55_Lunar not found"),
        ({"memory_mode": "Dedicated_Sram"}, "arena_mem_area=OffChipFlash"),
        ({"accelerator": "ethos-u77"}, "invalid choice: 'ethos-u77'"),
    ],
)
def test_a_configuration_that_vela_does_not_know_is_refused_in_one_sentence(
    changes: dict[str, str], named: str
) -> None:
    with pytest.raises(EdgepruneError, match="does not compile the file") as error:
        compile_for_npu(tiny_int8(), stem="m", **{**U55, **changes})
    assert named in error.value.problem
    assert "\n" not in error.value.problem
    assert "Traceback" not in error.value.problem


@pytest.mark.parametrize("content", [b"no flatbuffer at all", tiny_int8()[:3000]], ids=["foreign", "cut short"])
def test_a_damaged_file_is_an_error_and_not_the_end_of_the_process(content: bytes) -> None:
    """Vela crashes on a truncated flatbuffer."""
    with pytest.raises(EdgepruneError, match=r"Vela 5\.2\.0 does not compile the file: \S"):
        compile_for_npu(content, stem="m", **U55)


def test_a_float_file_is_refused_with_the_reason() -> None:
    with pytest.raises(EdgepruneError, match="IFM has to be 8bit"):
        compile_for_npu(tiny_float(), stem="m", **U55)


def test_a_configuration_file_of_ones_own_is_used(tmp_path: Path) -> None:
    """A board's memory is seldom one of Arm's examples."""
    settings = tmp_path / "board.ini"
    settings.write_text(
        "[System_Config.Board]\ncore_clock=100e6\naxi0_port=Sram\naxi1_port=OffChipFlash\nSram_clock_scale=1.0\n"
        "OffChipFlash_clock_scale=0.125\n[Memory_Mode.Shared]\nconst_mem_area=Axi1\narena_mem_area=Axi0\n"
        "cache_mem_area=Axi0\n"
    )
    compiled = compile_for_npu(
        tiny_int8(),
        stem="m",
        accelerator="ethos-u55-128",
        system_config="Board",
        memory_mode="Shared",
        config_file=settings,
    )
    assert compiled.report.inferences_per_second < tiny_compiled().report.inferences_per_second


def test_memory_is_held_against_the_device_to_the_byte() -> None:
    report = tiny_compiled().report
    fits = gates_of(report, sram_bytes=report.sram_bytes, flash_bytes=report.file_bytes)
    assert [gate.passed for gate in fits.values()] == [True, True, True]
    short = gates_of(report, sram_bytes=report.sram_bytes - 1, flash_bytes=report.file_bytes - 1)
    assert [name for name, gate in short.items() if not gate.passed] == ["npu_sram_bytes", "npu_flash_bytes"]
    assert short["npu_sram_bytes"].detail.startswith("1 bytes short; ")


def test_a_figure_that_nobody_published_is_said_to_be_missing() -> None:
    gates = gates_of(tiny_compiled().report)
    assert {name: gate.limit for name, gate in gates.items() if name != "npu_cpu_operators"} == {
        "npu_sram_bytes": "not published",
        "npu_flash_bytes": "not published",
    }
    assert all(gate.passed for gate in gates.values())


def test_throughput_is_called_an_estimate_wherever_it_is_shown() -> None:
    report = tiny_compiled().report
    assert "Vela's estimate" in gates_of(report)["npu_cpu_operators"].detail
    assert "| inferences per second, Vela's estimate |" in "\n".join(npu_lines(report))


def test_the_compiled_file_of_a_bundle_is_checked_again(tmp_path: Path) -> None:
    manifest = bundle(tmp_path, model_int8_vela=tiny_compiled().files["vela/model_int8_vela.tflite"])
    (gate,) = check_npu_files(tmp_path, manifest)
    assert gate.name == "npu:vela/model_int8_vela.tflite"
    assert gate.passed, gate.detail


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("model_int8_vela", tiny_int8, "left to the CPU"),
        ("model_int8_vela", lambda: b"", "no TFLite file"),
        ("other_vela", lambda: tiny_compiled().files["vela/model_int8_vela.tflite"], "no file that it was compiled"),
        (
            "model_int8_vela",
            lambda: compile_for_npu(with_elu(), stem="m", **U55).files["vela/m_vela.tflite"],
            "inputs are",
        ),
    ],
    ids=["never compiled", "empty", "of no model", "of another model"],
)
def test_a_wrong_compiled_file_in_a_bundle_is_found(tmp_path: Path, name: str, content, named: str) -> None:
    (gate,) = check_npu_files(tmp_path, bundle(tmp_path, **{name: content()}))
    assert not gate.passed
    assert named in gate.detail


@pytest.mark.long
@pytest.mark.parametrize("accelerator", ["ethos-u55-128", "ethos-u65-256"])
def test_the_reference_network_runs_on_the_npu_as_a_whole(accelerator: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = use_same_padding(torchvision_models().mobilenet_v3_small(num_classes=2))
    system = U55["system_config"] if "u55" in accelerator else "Ethos_U65_High_End"
    compiled = compile_for_npu(
        int8_of(network, 96), stem="m", accelerator=accelerator, system_config=system, memory_mode="Shared_Sram"
    )
    gates = check_npu(compiled.report, sram_bytes=100_000, flash_bytes=2 * 1024 * 1024, path="m")
    assert [gate for gate in gates if not gate.passed] == []
