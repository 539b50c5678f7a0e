"""From a finished level to a published bundle: audit, export, verify, publish.

The pruned file is always held against the unpruned baseline's file, exported the same way on the same machine.
"""

import math
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edgeprune import __version__
from edgeprune.audit import audit_cost
from edgeprune.data import PackedSplit
from edgeprune.errors import GateFailedError, InputError
from edgeprune.export.onnx_file import OnnxExport, write_onnx
from edgeprune.files import digest_file, digest_json, write_json
from edgeprune.formats import ModelMetadata
from edgeprune.learning import predict_logits
from edgeprune.manifest import MANIFEST, damaged_files, parse_manifest, unlisted_files
from edgeprune.pipeline.baseline import Baseline, open_baseline, recovery_digest
from edgeprune.pipeline.records import (
    RECORD,
    BaselineRecord,
    ExportRecord,
    Inputs,
    KeptExport,
    LevelRecord,
    load_record,
    save_record,
)
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.plan import find_groups
from edgeprune.preprocess import normalise_pixels
from edgeprune.prune import pad_channels
from edgeprune.publish.bundle import publish_bundle
from edgeprune.publish.facts import BundleFacts, DataFacts, GoldenVectors, LevelFacts
from edgeprune.recipe import Recipe, level_id
from edgeprune.results import CostReport, Gate, Verdict, as_json, at_most
from edgeprune.verify.accuracy import check_accuracy, compare_accuracy
from edgeprune.verify.latency import check_latency, compare_latency
from edgeprune.verify.onnx_graph import check_graph, check_metadata
from edgeprune.verify.onnx_runtime import run_onnx
from edgeprune.verify.parity import check_parity, check_simplification, scaled_difference
from edgeprune.zoo import Checkpoint, checkpoint_digest, load_checkpoint

MODEL = "model.onnx"
_GOLDEN_IMAGES = 8
# Real images on which onnxsim's graph is proven, and which the latency measurement cycles through.
_PROBE_IMAGES = 16
# onnxruntime's fast kernels need channels in fours; recipes that keep the log's exact counts are padded at export.
_FAST_MULTIPLE = 4
# Other processors sum in another order; a wrong preprocessing or a wrong file is off by whole logits.
_GOLDEN_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSummary:
    """How the export of one level ended.

    Attributes:
        level: its id.
        bundle: the published folder.
        verdict: every gate.
        cost, dense_cost: of the level and of the unpruned network.
        file_bytes, dense_file_bytes: of the ONNX files.
        up_to_date: the bundle was there already.
    """

    level: str
    bundle: Path
    verdict: Verdict
    cost: CostReport
    dense_cost: CostReport
    file_bytes: int
    dense_file_bytes: int
    up_to_date: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSummary:
    """Costs of the levels that there are, each against the unpruned network."""

    dense: CostReport
    levels: dict[str, CostReport]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A file on disk that no gate has seen yet, with what torch says to the same test images."""

    export: OnnxExport
    metadata: dict[str, str]
    cost: CostReport
    file_macs: int | None
    padding_difference: float
    torch_logits: np.ndarray
    file_logits: np.ndarray


def audit_levels(recipe: Recipe, workspace: Workspace, reporter: Reporter, *, target: float | None) -> AuditSummary:
    """Costs of one level, or of every finished one, written to each level's audit.json.

    Raises:
        InputError: the level that was asked for does not exist.
    """
    baseline = open_baseline(recipe, workspace, reporter)
    names = [level_id(target)] if target is not None else finished_levels(recipe, workspace)
    costs = {}
    for name in names:
        folder, record = _open_level(recipe, workspace, baseline, name, target)
        checkpoint = load_checkpoint(folder, own_factory=recipe.model.network)
        costs[record.level] = _audit(checkpoint, folder)
    return AuditSummary(dense=baseline.dense.cost, levels=costs)


def finished_levels(recipe: Recipe, workspace: Workspace) -> list[str]:
    """Levels of a recipe that are on disk, by rising sparsity; those of another recipe's making are found out later."""
    found = []
    for path in workspace.models.glob(f"{recipe.name}-s*/{RECORD}"):
        record = load_record(path, LevelRecord)
        if record is not None and path.parent.name == f"{recipe.name}-{record.level}":
            found.append((record.plan.target, record.level))
    return [level for _, level in sorted(found)]


def export_level(
    recipe: Recipe, workspace: Workspace, reporter: Reporter, *, level: str, target: float | None = None
) -> ExportSummary:
    """Audit, export, verify and publish one level, unless its bundle is up to date.

    Args:
        recipe: what made the level, and the limits of the gates.
        workspace: where things lie.
        reporter: is told what goes on.
        level: id of the level.
        target: as it was typed, for the error.

    Raises:
        InputError: the level does not exist or was made by another recipe.
        GateFailedError: a gate failed; nothing was published, the candidates stay for inspection.
    """
    baseline = open_baseline(recipe, workspace, reporter)
    folder, record = _open_level(recipe, workspace, baseline, level, target)
    dense_folder = workspace.level_folder(recipe, "dense")
    bundle = workspace.exports / f"{recipe.name}-{level}"
    inputs = Inputs(
        edgeprune=__version__,
        recipe_part=_export_digest(recipe),
        dataset=baseline.dataset.digest,
        parent=record.weights,
        teacher=baseline.weights,
        target=record.plan.target,
    )
    done = load_record(folder / "export.json", ExportRecord)
    if done is not None and done.inputs == inputs and _is_intact(bundle, done):
        return ExportSummary(
            level=level,
            bundle=bundle,
            verdict=done.verdict,
            cost=record.cost,
            dense_cost=baseline.dense.cost,
            file_bytes=(bundle / MODEL).stat().st_size,
            dense_file_bytes=(dense_folder / "candidates" / MODEL).stat().st_size,
            up_to_date=True,
        )
    reporter.say(f"{level}: exporting and proving model.onnx on {len(baseline.dataset.test.labels)} test images")
    checkpoint = load_checkpoint(folder, own_factory=recipe.model.network)
    cost = _audit(checkpoint, folder)
    with reporter.track(f"exporting {level}") as progress:
        dense = _make_candidate(recipe, baseline, baseline.checkpoint, dense_folder, record=None)
        progress(1, 4)
        pruned = _make_candidate(recipe, baseline, checkpoint, folder, record=record)
        progress(2, 4)
        initial = _initial_weights(recipe, workspace)
        facts = _verify(recipe, baseline, record, pruned=pruned, dense=dense, initial=initial)
        progress(3, 4)
        verdict = facts.verdict
        write_json(folder / "verify.json", {"passed": verdict.passed, "gates": as_json(verdict.gates)})
        if not verdict.passed:
            save_record(folder / "export.json", ExportRecord(inputs=inputs, verdict=verdict, manifest=""))
            raise GateFailedError(
                f"{level}: {sum(not gate.passed for gate in verdict.gates)} of {len(verdict.gates)} gates failed, so "
                "nothing was published.",
                f"look at {folder / 'verify.json'} and the candidates beside it, or export a lower target",
            )
        publish_bundle(
            exports=workspace.exports,
            facts=facts,
            model_files={MODEL: pruned.export.path},
            golden=_golden_vectors(baseline.dataset.test, pruned.file_logits),
            config_yaml=recipe.without_local_paths().to_yaml(),
            environment=_environment(facts),
        )
        manifest = digest_file(bundle / MANIFEST)
        save_record(folder / "export.json", ExportRecord(inputs=inputs, verdict=verdict, manifest=manifest))
        progress(4, 4)
    return ExportSummary(
        level=level,
        bundle=bundle,
        verdict=verdict,
        cost=cost,
        dense_cost=baseline.dense.cost,
        file_bytes=pruned.export.size_bytes,
        dense_file_bytes=dense.export.size_bytes,
        up_to_date=False,
    )


def _export_digest(recipe: Recipe) -> str:
    # A new runtime must prove the file anew.
    return digest_json([_runtimes(), recipe.part_digest("export", "verify"), recipe.name, recipe.goal])


def _runtimes() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "onnx", "onnxruntime", "onnxsim")}


def _environment(facts: BundleFacts) -> dict[str, str]:
    return {**_runtimes(), "cpu": facts.latency.cpu, "python": platform.python_version(), "system": platform.system()}


def _open_level(
    recipe: Recipe, workspace: Workspace, baseline: Baseline, level: str, target: float | None
) -> tuple[Path, LevelRecord]:
    folder = workspace.level_folder(recipe, level)
    record = load_record(folder / RECORD, LevelRecord)
    wanted = target if target is not None else (record.plan.target if record is not None else None)
    command = f"make prune TARGET={wanted:g}" if wanted is not None else "make prune"
    if record is None:
        there = ", ".join(finished_levels(recipe, workspace)) or "none"
        raise InputError(f"The level {level} of {recipe.name!r} does not exist (finished: {there}).", command)
    if (
        record.inputs.recipe_part != recovery_digest(recipe)
        or record.inputs.dataset != baseline.dataset.digest
        or record.inputs.edgeprune != __version__
    ):
        raise InputError(
            f"The level {level} in {folder} was made by another recipe, other images or another edgeprune.", command
        )
    if checkpoint_digest(folder) != record.weights:
        raise InputError(f"The weights in {folder} are not those that its record names.", command)
    return folder, record


def _audit(checkpoint: Checkpoint, folder: Path) -> CostReport:
    cost = audit_cost(
        checkpoint.network, image_size=checkpoint.spec.image_size, weights_file=folder / "model.safetensors"
    )
    write_json(folder / "audit.json", {"cost": as_json(cost), "macs_fvcore": cost.macs})
    return cost


def _is_intact(bundle: Path, done: ExportRecord) -> bool:
    path = bundle / MANIFEST
    if not done.manifest or not path.is_file() or digest_file(path) != done.manifest:
        return False
    manifest = parse_manifest(path.read_bytes(), origin=str(path))
    return not damaged_files(bundle, manifest) and not unlisted_files(bundle, manifest)


def _initial_weights(recipe: Recipe, workspace: Workspace) -> str:
    record = load_record(workspace.baseline_folder(recipe) / RECORD, BaselineRecord)
    return record.initial_weights if record is not None else "unknown: the baseline's record is missing"


def _make_candidate(
    recipe: Recipe, baseline: Baseline, checkpoint: Checkpoint, folder: Path, *, record: LevelRecord | None
) -> _Candidate:
    """Export a level, or the unpruned network where there is no record."""
    size, data, test = checkpoint.spec.image_size, recipe.data, baseline.dataset.test
    cost = audit_cost(checkpoint.network, image_size=size)
    network, file_macs, difference = checkpoint.network, None, 0.0
    torch_logits = predict_logits(network, test, mean=data.mean, std=data.std)
    if recipe.prune.align % _FAST_MULTIPLE:
        groups = find_groups(network, image_size=size, scope=recipe.prune.scope, protect=())
        network = pad_channels(network, groups, multiple=_FAST_MULTIPLE)
        file_macs = audit_cost(network, image_size=size).macs
        padded_logits = predict_logits(network, test, mean=data.mean, std=data.std)
        difference = scaled_difference(padded_logits, torch_logits)
    metadata = ModelMetadata(
        name=recipe.name,
        level=record.level if record else "dense",
        version=__version__,
        labels=checkpoint.classes,
        image_size=size,
        mean=data.mean,
        std=data.std,
        target=record.plan.target if record else 0.0,
        achieved=record.plan.achieved if record else 0.0,
        macs=f"{file_macs or cost.macs} fvcore",
        accuracy=f"{(record or baseline.dense).test.accuracy} on test, torch",
        data_digest=baseline.dataset.digest,
        recipe_digest=recipe.digest,
    ).as_text()
    images = normalise_pixels(np.asarray(test.images), data.mean, data.std)
    weights = record.weights if record else baseline.weights
    key = digest_json([weights, metadata, recipe.export.dynamic_batch, recipe.prune.align, _runtimes()])
    export = _reuse_export(folder / "candidates", key)
    if export is None:
        export = write_onnx(
            network,
            folder / "candidates" / MODEL,
            image_size=size,
            dynamic_batch=recipe.export.dynamic_batch,
            metadata=metadata,
            probe=images[:_PROBE_IMAGES],
        )
        if math.isfinite(export.simplify_difference):
            kept = KeptExport(key=key, sha256=digest_file(export.path), export=export)
            save_record(folder / "candidates" / RECORD, kept)
    return _Candidate(
        export=export,
        metadata=metadata,
        cost=cost,
        file_macs=file_macs,
        padding_difference=difference,
        torch_logits=torch_logits,
        file_logits=run_onnx(export.path, images),
    )


def _reuse_export(candidates: Path, key: str) -> OnnxExport | None:
    """The file of an earlier export of the same weights; the unpruned network is exported once for all levels."""
    kept = load_record(candidates / RECORD, KeptExport)
    path = candidates / MODEL
    if kept is None or kept.key != key or not path.is_file() or digest_file(path) != kept.sha256:
        return None
    return replace(kept.export, path=path)


def _verify(
    recipe: Recipe, baseline: Baseline, record: LevelRecord, *, pruned: _Candidate, dense: _Candidate, initial: str
) -> BundleFacts:
    limits, dataset, data = recipe.verify, baseline.dataset, recipe.data
    probe = normalise_pixels(np.asarray(dataset.test.images[:_PROBE_IMAGES]), data.mean, data.std)
    latency = compare_latency(pruned.export.path, dense.export.path, probe)
    comparison = compare_accuracy(
        file_logits=pruned.file_logits, reference_logits=dense.file_logits, labels=np.asarray(dataset.test.labels)
    )
    gates: list[Gate] = [
        *check_graph(pruned.export.path),
        check_metadata(pruned.export.path, pruned.metadata),
        check_simplification(pruned.export.simplify_difference),
        *check_parity(
            file_logits=pruned.file_logits,
            torch_logits=pruned.torch_logits,
            min_agreement=limits.min_agreement,
            max_difference=limits.max_logit_difference,
        ),
        *check_accuracy(comparison, max_drop=limits.max_accuracy_drop),
        check_latency(latency),
    ]
    if pruned.file_macs is not None:
        detail = f"channels padded to multiples of {_FAST_MULTIPLE}, against the network as pruned, in torch"
        gates.append(at_most("padding_difference", pruned.padding_difference, 1e-5, detail))
    spec = baseline.checkpoint.spec
    return BundleFacts(
        name=recipe.name,
        level=record.level,
        version=__version__,
        target=record.plan.target,
        achieved=record.plan.achieved,
        recipe_digest=recipe.digest,
        goal=recipe.goal,
        importance=recipe.prune.importance,
        align=recipe.prune.align,
        data=DataFacts(
            source=dataset.source,
            digest=dataset.digest,
            split_digest=dataset.split_digest,
            split_sizes={split.name: len(split.labels) for split in (dataset.train, dataset.val, dataset.test)},
            credit=dataset.credit,
        ),
        classes=dataset.classes,
        image_size=spec.image_size,
        mean=data.mean,
        std=data.std,
        network=spec.network,
        pad=spec.pad,
        weights=initial,
        dynamic_batch=recipe.export.dynamic_batch,
        pruned=LevelFacts(
            costs=replace(pruned.cost, checkpoint_bytes=record.cost.checkpoint_bytes),
            val=record.val,
            test=record.test,
            file_accuracy=comparison.accuracy,
            file_bytes={MODEL: pruned.export.size_bytes},
        ),
        dense=LevelFacts(
            costs=baseline.dense.cost,
            val=baseline.dense.val,
            test=baseline.dense.test,
            file_accuracy=comparison.reference,
            file_bytes={MODEL: dense.export.size_bytes},
        ),
        file_macs=pruned.file_macs,
        paired_p=comparison.p_value,
        latency=latency,
        verdict=Verdict(gates=tuple(gates)),
    )


def _golden_vectors(test: PackedSplit, logits: np.ndarray) -> GoldenVectors:
    """Test images in turns from every class, so that a network that always gives one answer cannot pass."""
    by_class = [np.flatnonzero(np.asarray(test.labels) == label) for label in np.unique(test.labels)]
    rounds = max(len(indices) for indices in by_class)
    in_turns = [int(indices[turn]) for turn in range(rounds) for indices in by_class if turn < len(indices)]
    chosen = in_turns[:_GOLDEN_IMAGES]
    return GoldenVectors(
        images=np.asarray(test.images[chosen]),
        labels=tuple(int(test.labels[index]) for index in chosen),
        names=tuple(test.names[index] for index in chosen),
        logits={MODEL: logits[chosen]},
        tolerance={MODEL: _GOLDEN_TOLERANCE * max(1.0, float(np.abs(logits).max()))},
    )
