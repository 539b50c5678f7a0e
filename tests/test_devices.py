"""Device profiles: where figures come from, who fits what, and what the command line says of them."""

import json
import re
import tomllib
from pathlib import Path

import ethosu
import pytest
import typer
from command import run_python
from typer.testing import CliRunner

from edgeprune.cli.devices import devices_app
from edgeprune.devices import DeviceProfile, estimate_latency_ms, fit_device, list_devices, load_device
from edgeprune.embedded import ArenaReport, DeviceFit, NpuReport
from edgeprune.errors import InputError
from edgeprune.micro_operators import RESOLVER_METHODS
from edgeprune.publish.device_table import _fit_row

FOLDER = Path(__file__).parent.parent / "edgeprune" / "devices"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
ARENA = ArenaReport(
    head_bytes=73_728,
    tail_bytes=38_400,
    liveness_bytes=73_728,
    peak_operator=1,
    peak_layer="features.0",
    runtime="tflite-micro",
)
NPU = NpuReport(
    accelerator="ethos-u55-256",
    system_config="Ethos_U55_High_End_Embedded",
    memory_mode="Shared_Sram",
    cpu_operators=(),
    npu_operators=90,
    sram_bytes=60_000,
    flash_bytes=900_000,
    file_bytes=1_000_000,
    inferences_per_second=250.0,
    version="5.2.0",
)
MINE = """
id = "mine"
board = "A board of mine"
core = "cortex-m4f"
clock_hz = 100_000_000
ram_bytes = 131_072
ram_note = "all of it"
runtimes = ["tflite_micro"]
operators = "tflite_micro"

[sources]
core = "its data sheet"
clock_hz = "its data sheet"
ram_bytes = "its data sheet"
runtimes = "tried it"
"""


def fit(name: str | DeviceProfile, **changes: object) -> DeviceFit:
    values: dict[str, object] = {
        "arena": ARENA,
        "model_bytes": 700_000,
        "macs": 7_489_664,
        "operators": {"CONV_2D": 40, "PAD": 5},
        **changes,
    }
    profile = load_device(name) if isinstance(name, str) else name
    return fit_device(profile, **values)  # type: ignore[arg-type]


def arena(head: int) -> ArenaReport:
    return ArenaReport(
        head_bytes=head,
        tail_bytes=38_400,
        liveness_bytes=head,
        peak_operator=0,
        peak_layer="features.2",
        runtime="tflite-micro",
    )


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def refused(path: Path, old: str, new: str) -> str:
    """What is said of a profile of one's own after one change."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_device(str(path))
    return str(caught.value)


def test_the_boards_that_people_ask_for_are_there() -> None:
    wanted = {
        *("nano33ble", "portenta_h7", "stm32f746", "stm32h743", "stm32n6", "esp32s3", "rp2040", "rp2350", "imxrt1062"),
        *("apollo4", "sparkfun_edge", "ensemble_e3", "corstone300_u55", "imx93", "rpi_zero2"),
    }
    assert wanted <= set(NAMES)
    assert [profile.id for profile in list_devices()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_of_every_board_names_its_source(name: str) -> None:
    """A figure that nobody can look up is worth less than none."""
    values = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    figures = {key for key, value in values.items() if isinstance(value, int)}
    assert figures | {"core", "runtimes"} == set(values["sources"])
    for source in (
        *values["sources"].values(),
        *(values[part]["source"] for part in ("npu", "latency") if part in values),
    ):
        assert len(source) > 10
    assert load_device(name).id == name


def test_figures_that_can_be_checked_by_heart() -> None:
    board = load_device("stm32f746")
    assert (board.clock_hz, board.ram_bytes, board.flash_bytes) == (216_000_000, 320 * 1024, 1024 * 1024)
    board = load_device("nano33ble")
    assert (board.clock_hz, board.ram_bytes, board.flash_bytes) == (64_000_000, 256 * 1024, 1024 * 1024)
    board = load_device("rp2040")
    assert (board.clock_hz, board.ram_bytes, board.flash_bytes) == (133_000_000, 264 * 1024, 2 * 1024 * 1024)


def test_what_no_source_gives_is_absent() -> None:
    """A simulator has no flash and no clock that means anything, a Raspberry Pi has the flash of its card."""
    assert load_device("corstone300_u55").clock_hz is None
    assert load_device("corstone300_u55").flash_bytes is None
    assert load_device("rpi_zero2").flash_bytes is None
    assert load_device("stm32n6").latency is None


@pytest.mark.parametrize("profile", [each for each in list_devices() if each.npu], ids=lambda each: each.id)
def test_vela_knows_the_accelerator_that_a_profile_names(profile: DeviceProfile) -> None:
    """ST's accelerator is none of Arm's: a profile that called it one would have Vela compile for nothing."""
    assert profile.npu is not None
    if profile.id == "stm32n6":
        assert profile.npu.accelerator == profile.npu.system_config == profile.npu.memory_mode == ""
        assert "Not an Ethos-U" in profile.npu.note
        return
    assert re.fullmatch(r"ethos-u(55-(32|64|128|256)|65-(256|512)|85-\d+)", profile.npu.accelerator)
    ini = (Path(next(iter(ethosu.__path__))) / "config_files" / "Arm" / "vela.ini").read_text()
    assert f"[System_Config.{profile.npu.system_config}]" in ini
    assert f"[Memory_Mode.{profile.npu.memory_mode}]" in ini


def test_the_operators_of_a_microcontroller_are_those_that_tflite_micro_registers() -> None:
    assert load_device("esp32s3").operators == frozenset(RESOLVER_METHODS)
    assert load_device("rpi_zero2").operators is None


def test_a_profile_of_ones_own_is_read_from_its_file(mine: Path) -> None:
    profile = load_device(str(mine))
    assert (profile.id, profile.ram_bytes, profile.flash_bytes) == ("mine", 131_072, None)
    assert profile.reserve_bytes == load_device("stm32f746").reserve_bytes


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(InputError, match=re.escape("no device 'STM32F764' among")) as caught:
        load_device("STM32F764")
    assert caught.value.remedy.startswith("stm32f746, ")
    assert "`edgeprune devices`" in caught.value.remedy
    with pytest.raises(InputError) as caught:
        load_device("zzz")
    assert "`edgeprune devices`" in caught.value.remedy


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ram_bytes = 131_072", "ram_byte = 131_072", "unknown key `ram_byte`, perhaps `ram_bytes`"),
        ("ram_bytes = 131_072", 'ram_bytes = "131072"', "ram_bytes = '131072' does not fit"),
        ("ram_bytes = 131_072", "ram_bytes = 0", "ram_bytes = 0 does not fit"),
        ("ram_bytes = 131_072", "ram_bytes = nan", "ram_bytes = "),
        ("ram_bytes = 131_072", "ram_bytes = 2024-01-01", "ram_bytes = '2024-01-01' does not fit"),
        ('ram_note = "all of it"', "", "ram_note says which RAM ram_bytes is"),
        ('clock_hz = "its data sheet"', "", "[sources] does not say where clock_hz comes from"),
        ("clock_hz = 100_000_000", "clock_hz = 100_000_000\nreserve_bytes = 1024", "where reserve_bytes comes from"),
        ("clock_hz = 100_000_000", "", "[sources] names clock_hz, which is not given"),
        ('board = "A board of mine"', "", "the key `board` is missing"),
        ('operators = "tflite_micro"', 'operators = "litert"', "operators = 'litert' is not among its runtimes"),
        ('operators = "tflite_micro"', 'operators = "onnx"', "operators = 'onnx' does not fit"),
        ('id = "mine"', 'id = "stm32f746"', "has the id 'stm32f746', which is another device's"),
        ('id = "mine"', "id = mine", "is not TOML"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused_by_name(mine: Path, old: str, new: str, said: str) -> None:
    """A typing error must not turn a limit off."""
    assert said in refused(mine, old, new)


def test_an_npu_needs_all_that_vela_is_told_or_nothing(mine: Path) -> None:
    """Vela would fill the gap with a default of its own, silently."""
    mine.write_text(f'{MINE}\n[npu]\nname = "U55"\naccelerator = "ethos-u55-128"\nsource = "its data sheet"\n')
    with pytest.raises(InputError, match="belong together"):
        load_device(str(mine))


def test_a_file_that_is_not_there_or_not_text_is_an_error_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_device(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not TOML"):
        load_device(str(tmp_path / "bytes.toml"))


def test_latency_is_proportional_to_macs_and_clock() -> None:
    board = load_device("stm32f746")
    assert board.latency is not None
    assert estimate_latency_ms(board, board.latency.macs) == pytest.approx(129.0)
    assert estimate_latency_ms(board, board.latency.macs // 2) == pytest.approx(64.5)
    faster = estimate_latency_ms(load_device("stm32h743"), board.latency.macs)
    assert faster == pytest.approx(129.0 * 216 / 480)
    assert estimate_latency_ms(load_device("stm32n6"), 10**6) is None


@pytest.mark.parametrize("profile", [each for each in list_devices() if each.latency], ids=lambda each: each.id)
def test_cycles_a_mac_of_every_measurement_are_believable(profile: DeviceProfile) -> None:
    """A slip of a digit in a profile would show here: int8 kernels take 1 to 20 cycles a MAC on these cores."""
    known = profile.latency
    assert known is not None
    assert 1 < known.ms / 1000 * known.clock_hz / known.macs < 20


def test_the_macs_of_the_benchmarks_follow_from_their_architecture() -> None:
    """MobileNetV1 0.25 at 96 pixels (Howard et al. 2017, table 1), convolutions and linear layer."""

    def mobilenet_v1_quarter(planes: int) -> int:
        size, channels = 48, 8
        macs = size * size * channels * 9 * planes
        blocks = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]
        for made, stride in blocks:
            size = -(-size // stride)
            macs += size * size * (9 * channels + channels * made)
            channels = made
        return macs + channels * 2

    known = {
        profile.latency.benchmark: profile.latency.macs for profile in list_devices() if profile.latency is not None
    }
    assert known["MLPerf Tiny visual wake words: MobileNetV1 0.25, 96 x 96 x 3"] == mobilenet_v1_quarter(3)
    assert known["TFLite Micro's person detection: MobileNetV1 0.25, 96 x 96 x 1"] == mobilenet_v1_quarter(1)


def test_a_file_that_fits_has_no_problems_and_its_parts_add_up() -> None:
    found = fit("stm32f746")
    assert found.fits
    assert found.ram_needed_bytes == 73_728 + 38_400 + found.reserve_bytes
    assert found.flash_needed_bytes == 700_000 + found.kernel_bytes
    assert "129 ms for MobileNetV2" in found.latency_source


def test_ram_that_falls_short_is_named_in_bytes_with_what_would_help() -> None:
    found = fit("nano33ble", arena=arena(200_000))
    short = 200_000 + 38_400 + found.reserve_bytes - 262_144
    (problem,) = found.problems
    assert problem.startswith(f"RAM is {short:,} bytes short: ")
    for word in (
        "200,000 activations",
        "`model: {pad: same}`",
        "`export: {pad: rotate}`",
        "features.2",
        "smaller image",
    ):
        assert word in problem


def test_pad_is_only_blamed_where_there_is_one() -> None:
    (problem,) = fit("nano33ble", arena=arena(200_000), operators={"CONV_2D": 40}).problems
    assert "pad" not in problem.lower()


def test_the_last_byte_fits_and_the_next_does_not() -> None:
    board = load_device("nano33ble")
    assert board.ram_bytes is not None
    assert board.flash_bytes is not None
    room = board.ram_bytes - 38_400 - board.reserve_bytes
    assert fit(board, arena=arena(room)).fits
    assert not fit(board, arena=arena(room + 1)).fits
    assert not fit(board, arena=arena(room), scratch_bytes=1).fits
    room = board.flash_bytes - board.kernel_bytes
    assert fit(board, model_bytes=room).fits
    (problem,) = fit(board, model_bytes=room + 1).problems
    assert problem.startswith("Flash is 1 bytes short: ")
    assert "a higher TARGET" in problem


def test_an_operator_that_the_runtime_lacks_is_a_problem() -> None:
    (problem,) = fit("stm32f746", operators={"CONV_2D": 1, "BROADCAST_GRADIENT_ARGS": 1}).problems
    assert "BROADCAST_GRADIENT_ARGS" in problem
    assert fit("rpi_zero2", operators={"CONV_2D": 1, "GELU": 1}).fits
    assert not fit("rpi_zero2", operators={"CUSTOM(MyOp)": 1}).fits


def test_with_an_npu_the_compiled_file_is_what_must_fit() -> None:
    found = fit("ensemble_e3", npu=NPU)
    assert found.fits
    assert (found.arena_head_bytes, found.model_bytes) == (60_000, 1_000_000)
    assert found.latency_ms == 4.0
    assert "Vela 5.2.0's own estimate" in found.latency_source


def test_where_the_npu_memory_is_a_cache_activations_stay_in_ram() -> None:
    cached = {field: getattr(NPU, field) for field in NPU.__dataclass_fields__} | {
        "memory_mode": "Dedicated_Sram_384KB"
    }
    assert fit("imx93", npu=NpuReport(**cached)).arena_head_bytes == ARENA.head_bytes


def test_what_vela_leaves_to_the_core_and_npu_memory_that_overflows_are_problems() -> None:
    values = {field: getattr(NPU, field) for field in NPU.__dataclass_fields__}
    (problem,) = fit("ensemble_e3", npu=NpuReport(**values | {"cpu_operators": ("CUMSUM", "CUMSUM")})).problems
    assert "2 operators to the CPU (CUMSUM)" in problem
    problems = fit("ensemble_e3", npu=NpuReport(**values | {"sram_bytes": 4_194_305})).problems
    assert any("NPU's memory is 1 bytes short" in problem for problem in problems)


@pytest.mark.parametrize("name", NAMES)
def test_every_board_has_a_row_in_the_size_report(name: str) -> None:
    row = _fit_row(fit(name))
    assert row.count(" | ") == 11
    assert "None" not in row
    assert "nan" not in row.replace("nano", "")


def ask(*arguments: str) -> str:
    app = typer.Typer()
    app.command("other")(lambda: None)
    app.add_typer(devices_app, name="devices")
    return CliRunner().invoke(app, ["devices", *arguments], catch_exceptions=False).output


def test_the_list_shows_every_board() -> None:
    shown = ask()
    for profile in list_devices():
        assert profile.id in shown
    assert "327,680" in shown
    assert "ethos-u55-256" in shown


def test_the_list_as_json_can_be_read_back() -> None:
    values = json.loads(ask("--json"))
    assert [each["id"] for each in values] == NAMES
    assert DeviceProfile.model_validate_json(json.dumps(values[0])) == list_devices()[0]


@pytest.mark.parametrize("name", NAMES)
def test_one_board_is_shown_with_its_sources(name: str) -> None:
    shown, profile = "".join(ask("show", name).split()), load_device(name)
    assert shown.startswith(f"{name}:")
    assert "None" not in shown
    # A table folds long cells, so only the first word of each source is looked for.
    for source in profile.sources.values():
        assert source.split()[0] in shown
    assert json.loads(ask("show", name, "--json"))["sources"] == profile.sources


def test_a_file_of_ones_own_is_shown_too(mine: Path) -> None:
    shown = ask("show", str(mine))
    assert "A board of mine" in shown
    assert "not published" in shown


def test_the_commands_load_nothing_before_they_run(tmp_path: Path) -> None:
    """`edgeprune --help` imports them all."""
    program = (
        "import sys, edgeprune.cli.devices\n"
        "assert not {'rich', 'pydantic', 'tomllib', 'numpy', 'torch'} & set(sys.modules), sorted(sys.modules)"
    )
    assert run_python("-c", program, at=tmp_path).code == 0
