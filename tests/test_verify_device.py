"""Gates on a device: each one seen to pass and to fail, and saying by how much."""

import dataclasses

import pytest

from edgeprune.devices import load_device
from edgeprune.embedded import DeviceFit
from edgeprune.verify.device import check_fit, check_operators

FIT = DeviceFit(
    device="stm32f746",
    board="STM32F746G-DISCO (STM32F746NG)",
    ram_bytes=327_680,
    flash_bytes=1_048_576,
    arena_head_bytes=73_728,
    arena_tail_bytes=38_400,
    reserve_bytes=32_768,
    model_bytes=700_000,
    kernel_bytes=131_072,
    latency_ms=None,
    latency_source="",
    problems=(),
)


def test_a_file_that_fits_passes_with_its_figures_in_bytes() -> None:
    ram, flash = check_fit(FIT)
    assert (ram.name, ram.figure, ram.limit, ram.passed) == ("device_ram:stm32f746", 144_896, "<= 327680", True)
    assert (flash.name, flash.figure, flash.passed) == ("device_flash:stm32f746", 831_072, True)
    # Rounded to six digits, it would say 1.04858e+06.
    assert flash.limit == "<= 1048576"
    for part in ("73,728 activations", "38,400 runtime", "32,768 reserve", "182,784 bytes to spare"):
        assert part in ram.detail
    for part in ("700,000 model", "131,072 allowance"):
        assert part in flash.detail


@pytest.mark.parametrize(("field", "index"), [("arena_head_bytes", 0), ("arena_tail_bytes", 0), ("reserve_bytes", 0)])
def test_one_byte_too_many_in_ram_fails(field: str, index: int) -> None:
    spare = 327_680 - FIT.ram_needed_bytes
    full = dataclasses.replace(FIT, **{field: getattr(FIT, field) + spare})
    assert check_fit(full)[index].passed
    gate = check_fit(dataclasses.replace(full, **{field: getattr(full, field) + 1}))[index]
    assert not gate.passed
    assert "1 bytes short" in gate.detail


@pytest.mark.parametrize("field", ["model_bytes", "kernel_bytes"])
def test_one_byte_too_many_in_flash_fails(field: str) -> None:
    spare = 1_048_576 - FIT.flash_needed_bytes
    full = dataclasses.replace(FIT, **{field: getattr(FIT, field) + spare})
    assert check_fit(full)[1].passed
    gate = check_fit(dataclasses.replace(full, **{field: getattr(full, field) + 1}))[1]
    assert not gate.passed
    assert "1 bytes short" in gate.detail


def test_where_nothing_is_published_the_gate_passes_and_says_so() -> None:
    for gate in check_fit(dataclasses.replace(FIT, ram_bytes=None, flash_bytes=None)):
        assert gate.passed
        assert gate.limit == "not published"


def test_operators_outside_the_list_of_the_device_fail_and_are_named() -> None:
    allowed = load_device("stm32f746").operators
    good = check_operators({"CONV_2D": 40, "ADD": 3}, allowed, path="model_int8.tflite", device="stm32f746")
    assert (good.name, good.figure, good.passed) == ("device_operators:stm32f746", 0, True)
    bad = check_operators(
        {"CONV_2D": 40, "GELU": 3, "CUSTOM(MyOp)": 1}, allowed, path="model_int8.tflite", device="stm32f746"
    )
    assert (bad.figure, bad.limit, bad.passed) == (2, "<= 0", False)
    assert "CUSTOM(MyOp), GELU" in bad.detail
    assert "model_int8.tflite" in bad.detail


def test_a_linux_board_takes_every_builtin_operator_and_no_other() -> None:
    allowed = load_device("rpi_zero2").operators
    assert check_operators({"GELU": 1, "CONV_3D": 1}, allowed, path="m.tflite", device="rpi_zero2").passed
    for name in ("CUSTOM(MyOp)", "unknown 999"):
        assert not check_operators({name: 1}, allowed, path="m.tflite", device="rpi_zero2").passed
