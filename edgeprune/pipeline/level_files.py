"""Everything that a level becomes beside its float ONNX file, each file written, run and judged."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from edgeprune.devices import DeviceProfile
from edgeprune.embedded import DeviceFit, NpuReport
from edgeprune.formats import LAYOUT
from edgeprune.pipeline.baseline import Baseline
from edgeprune.pipeline.candidates import Candidate, describe_level
from edgeprune.pipeline.conversions import Conversions
from edgeprune.pipeline.device_fit import fit_devices
from edgeprune.pipeline.firmware import Firmware, make_firmware
from edgeprune.pipeline.golden_inputs import GoldenInputs, ask_golden, choose_golden
from edgeprune.pipeline.int8 import Int8Network
from edgeprune.pipeline.level_int8 import INT8_FORMATS, choose_level_int8, require_mcu
from edgeprune.pipeline.model_file import ModelFile
from edgeprune.pipeline.onnx_int8_file import make_onnx_int8_file
from edgeprune.pipeline.operating import with_operating_point
from edgeprune.pipeline.records import LevelRecord
from edgeprune.pipeline.tflite_files import (
    FLOAT_LAYOUT,
    INT8_LAYOUT,
    make_float_file,
    make_int8_file,
)
from edgeprune.pipeline.unrotated import compare_unrotated
from edgeprune.pipeline.workspace import Reporter
from edgeprune.recipe import Recipe
from edgeprune.results import Gate
from edgeprune.zoo import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelFiles:
    """What a level became, each file written, run on the test split and judged.

    Attributes:
        models: model files, in the order of a bundle's tables.
        extra_files: ``c/`` and ``vela/``: path in the bundle to bytes.
        gates: those that are not about one model file alone.
        fits, npu: what devices say; see ``device_fit.DeviceFits``.
        plain_arena_head_bytes: of the file with PAD operators, where rotation removed them.
    """

    models: tuple[ModelFile, ...] = ()
    extra_files: dict[str, bytes] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    fits: tuple[DeviceFit, ...] = ()
    npu: NpuReport | None = None
    plain_arena_head_bytes: int | None = None

    @property
    def all_gates(self) -> tuple[Gate, ...]:
        """Of every model file, then the rest."""
        return (*(gate for file in self.models for gate in file.gates), *self.gates)


def make_level_files(
    recipe: Recipe,
    reporter: Reporter,
    baseline: Baseline,
    checkpoint: Checkpoint,
    folder: Path,
    *,
    record: LevelRecord | None,
    onnx: Candidate,
    torch_logits: np.ndarray,
    device: DeviceProfile | None,
) -> LevelFiles:
    """Write and prove every file that the recipe asks for beside ``model.onnx``.

    Args:
        recipe: formats, int8 settings, limits.
        reporter: is told what goes on.
        baseline: data set, and what the unpruned network costs.
        checkpoint: the level.
        folder: of the level; candidates and the int8 choice are kept there.
        record: of the level; None for the unpruned network, which gets no firmware and is held against no device.
        onnx: its float ONNX file.
        torch_logits: of the level in torch on the test split.
        device: that the level must fit; None holds it against every profile, without gates.

    Raises:
        MissingExtraError: a package of the extra ``mcu`` or ``executorch`` is not installed.
        EdgepruneError: the network cannot be converted or quantised, or Vela cannot compile it.
    """
    formats = set(recipe.export.formats)
    if formats == {"onnx"}:
        return LevelFiles()
    require_mcu()
    title, dataset = record.level if record else "dense", baseline.dataset
    macs, candidates = (record or baseline.dense).cost.macs, folder / "candidates"
    models: list[ModelFile] = []
    upright = Conversions(image_size=recipe.data.image_size, rotate=False)
    chosen: Int8Network | None = None
    if formats & INT8_FORMATS:
        chosen = choose_level_int8(
            recipe, reporter, baseline, checkpoint.network, folder=folder, record=record, conversions=upright
        )
    metadata = describe_level(recipe, baseline, record, layout=LAYOUT, macs=macs)
    if chosen and "onnx_int8" in formats:
        reporter.say(f"{title}: int8 for ONNX Runtime")
        file = make_onnx_int8_file(recipe, dataset, chosen, candidates, metadata=metadata, float_file=onnx)
        models.append(with_operating_point(recipe, dataset, file))
    lite = LevelFiles()
    if formats & {"tflite", "tflite_int8"}:
        reporter.say(f"{title}: converting to TFLite, and running it in LiteRT and TFLite Micro")
        lite = _make_tflite(
            recipe,
            baseline,
            checkpoint.network,
            chosen if "tflite_int8" in formats else None,
            folder=candidates,
            record=record,
            upright=upright,
            torch_logits=torch_logits,
            device=device,
            golden=choose_golden(recipe, dataset.test, dataset.classes, onnx) if record and "c" in formats else None,
        )
    # int8 is held against its own float file, whether or not that ships.
    models += lite.models if "tflite" in formats else lite.models[1:]
    if chosen and "executorch" in formats:
        from edgeprune.pipeline.executorch_files import make_executorch_files

        reporter.say(f"{title}: converting to ExecuTorch, and running it there")
        files = make_executorch_files(
            recipe,
            dataset,
            checkpoint.network,
            chosen,
            candidates,
            metadata=metadata,
            torch_logits=torch_logits,
        )
        models += (with_operating_point(recipe, dataset, file) for file in files)
    return LevelFiles(
        models=tuple(models),
        extra_files=lite.extra_files,
        gates=lite.gates,
        fits=lite.fits,
        npu=lite.npu,
        plain_arena_head_bytes=lite.plain_arena_head_bytes,
    )


def _make_tflite(
    recipe: Recipe,
    baseline: Baseline,
    network: nn.Module,
    chosen: Int8Network | None,
    *,
    folder: Path,
    record: LevelRecord | None,
    upright: Conversions,
    torch_logits: np.ndarray,
    device: DeviceProfile | None,
    golden: GoldenInputs | None,
) -> LevelFiles:
    dataset, macs = baseline.dataset, (record or baseline.dense).cost.macs
    rotated = recipe.export.pad == "rotate"
    conversions = Conversions(image_size=recipe.data.image_size, rotate=True) if rotated else upright
    # The level itself: conditioning is exact only to the third digit, which is nothing to int8 and much to float.
    float_file = make_float_file(
        recipe,
        dataset,
        conversions.convert(network),
        folder,
        metadata=describe_level(recipe, baseline, record, layout=FLOAT_LAYOUT, macs=macs),
        torch_logits=torch_logits,
    )
    float_file = with_operating_point(recipe, dataset, float_file)
    if chosen is None:
        return LevelFiles(models=(float_file,))
    metadata = describe_level(recipe, baseline, record, layout=INT8_LAYOUT, macs=macs)
    model = conversions.convert(chosen.network)
    int8_file = make_int8_file(recipe, dataset, chosen, model, folder, metadata=metadata, float_file=float_file)
    int8_file = with_operating_point(recipe, dataset, int8_file)
    models = (float_file, int8_file)
    if record is None:
        return LevelFiles(models=models)
    plain = compare_unrotated(recipe, dataset, network, chosen, upright, float_file=float_file)
    fits = fit_devices(int8_file, device, macs=macs)
    firmware = Firmware()
    if golden is not None:
        firmware = make_firmware(recipe, int8_file, ask_golden(recipe, golden, models), metadata=metadata)
    return LevelFiles(
        models=models,
        extra_files={**firmware.files, **fits.files},
        gates=(*plain.gates, *firmware.gates, *fits.gates),
        fits=fits.fits,
        npu=fits.npu,
        plain_arena_head_bytes=plain.arena_head_bytes,
    )
