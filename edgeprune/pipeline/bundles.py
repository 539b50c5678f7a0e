"""From a finished level to a published bundle: audit, export, verify, publish.

The pruned file is always held against the unpruned baseline's file, exported the same way on the same machine.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from edgeprune import __version__
from edgeprune.data import PackedSplit
from edgeprune.errors import EdgepruneError, GateFailedError
from edgeprune.evaluation import predict_logits
from edgeprune.files import digest_file, digest_json, write_json
from edgeprune.manifest import MANIFEST, damaged_files, parse_manifest, unlisted_files
from edgeprune.pipeline.baseline import Baseline, open_baseline
from edgeprune.pipeline.candidates import FAST_MULTIPLE, MODEL, PROBE_IMAGES, Candidate, make_candidate, runtimes
from edgeprune.pipeline.embedded_files import make_dense_facts, make_tflite_files
from edgeprune.pipeline.finished import audit_level, choose_levels
from edgeprune.pipeline.mcu import TfliteCandidate
from edgeprune.pipeline.records import (
    RECORD,
    BaselineRecord,
    ExportRecord,
    Inputs,
    LevelRecord,
    load_record,
    save_record,
)
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.preprocess import normalise_pixels
from edgeprune.publish.bundle import publish_bundle
from edgeprune.publish.catalogue import rebuild_catalogue
from edgeprune.publish.facts import BundleFacts, DataFacts, FileFacts, GoldenVectors, LevelFacts
from edgeprune.recipe import Recipe
from edgeprune.results import Accuracy, CostReport, Gate, LatencyComparison, Verdict, as_json, at_most
from edgeprune.verify.accuracy import check_accuracy, compare_accuracy
from edgeprune.verify.latency import check_latency, compare_latency
from edgeprune.verify.onnx_graph import check_graph, check_metadata
from edgeprune.verify.parity import check_parity, check_simplification
from edgeprune.zoo import load_checkpoint

_GOLDEN_IMAGES = 8
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
class ExportOutcome:
    """How every level that was asked for ended: published or up to date, or the error that kept it back."""

    summaries: tuple[ExportSummary, ...]
    failures: dict[str, EdgepruneError]


def export_levels(recipe: Recipe, workspace: Workspace, reporter: Reporter, *, target: float | None) -> ExportOutcome:
    """Audit, export, verify and publish one level, or every finished one, unless its bundle is up to date.

    A level that fails does not keep the others from their bundles.

    Args:
        recipe: what made the levels, and the limits of the gates.
        workspace: where things lie.
        reporter: is told what goes on.
        target: the level's; None for all.

    Raises:
        InputError: the level does not exist or was made by another recipe, or there is none at all.
    """
    baseline = open_baseline(recipe, workspace, reporter)
    levels = choose_levels(recipe, workspace, reporter, baseline, target=target)
    dense = cache(
        lambda: make_candidate(
            recipe, baseline, baseline.checkpoint, workspace.level_folder(recipe, "dense"), record=None
        )
    )
    summaries, failures = [], {}
    for level, (folder, record) in levels.items():
        try:
            summaries.append(_export_level(recipe, workspace, reporter, baseline, dense, folder=folder, record=record))
        except EdgepruneError as error:
            failures[level] = error
    return ExportOutcome(summaries=tuple(summaries), failures=failures)


def _export_level(
    recipe: Recipe,
    workspace: Workspace,
    reporter: Reporter,
    baseline: Baseline,
    dense_candidate: Callable[[], Candidate],
    *,
    folder: Path,
    record: LevelRecord,
) -> ExportSummary:
    level = record.level
    bundle = workspace.exports / f"{recipe.name}-{level}"
    inputs = Inputs(
        edgeprune=__version__,
        recipe_part=digest_json([runtimes(), recipe.digest]),  # a new runtime must prove the file anew
        dataset=baseline.dataset.digest,
        parent=record.weights,
        baseline=baseline.weights,
        target=record.plan.target,
    )
    done = load_record(folder / "export.json", ExportRecord)
    if done is not None and done.inputs == inputs and _is_intact(bundle, done):
        rebuild_catalogue(workspace.exports)
        return ExportSummary(
            level=level,
            bundle=bundle,
            verdict=done.verdict,
            cost=record.cost,
            dense_cost=baseline.dense.cost,
            file_bytes=(bundle / MODEL).stat().st_size,
            dense_file_bytes=done.dense_file_bytes,
            up_to_date=True,
        )
    reporter.say(f"{level}: exporting and proving model.onnx on {len(baseline.dataset.test.labels)} test images")
    checkpoint = load_checkpoint(folder, own_factory=recipe.model.network)
    cost = audit_level(checkpoint, folder, dense=baseline.dense.cost)
    torch_logits = predict_logits(checkpoint.network, baseline.dataset.test, mean=checkpoint.mean, std=checkpoint.std)
    dense_tflite = make_dense_facts(recipe, workspace, reporter, baseline)
    tflite = make_tflite_files(recipe, reporter, baseline, checkpoint, folder, record=record, torch_logits=torch_logits)
    with reporter.track(f"exporting {level}") as progress:
        dense = dense_candidate()
        progress(1, 4)
        pruned = make_candidate(recipe, baseline, checkpoint, folder, record=record)
        progress(2, 4)
        facts = _verify(
            recipe,
            baseline,
            record,
            pruned=pruned,
            dense=dense,
            tflite=tflite,
            dense_tflite=dense_tflite,
            torch_logits=torch_logits,
            initial=_initial_weights(recipe, workspace),
        )
        progress(3, 4)
        verdict = facts.verdict
        write_json(folder / "verify.json", {"passed": verdict.passed, "gates": as_json(verdict.gates)})
        if not verdict.passed:
            raise GateFailedError(
                f"{level}: {sum(not gate.passed for gate in verdict.gates)} of {len(verdict.gates)} gates failed, so "
                "nothing was published.",
                f"look at {folder / 'verify.json'} and the candidates beside it, or export a lower target",
            )
        published = publish_bundle(
            exports=workspace.exports,
            facts=facts,
            model_files={MODEL: pruned.export.path, **{file.facts.path: file.path for file in tflite}},
            golden=_golden_vectors(baseline.dataset.test, pruned, tflite),
            config_yaml=recipe.without_local_paths().to_yaml(),
            environment={
                **runtimes(),
                "cpu": facts.headline.latency.cpu if facts.headline.latency else "unknown",
                "python": platform.python_version(),
                "system": platform.system(),
            },
        )
        for note in published.catalogue.left_out:
            reporter.say(f"not in index.json: {note}")
        kept = ExportRecord(
            inputs=inputs,
            verdict=verdict,
            manifest=published.manifest_sha256,
            dense_file_bytes=dense.export.size_bytes,
        )
        save_record(folder / "export.json", kept)
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


def _is_intact(bundle: Path, done: ExportRecord) -> bool:
    path = bundle / MANIFEST
    if not done.manifest or not path.is_file() or digest_file(path) != done.manifest:
        return False
    manifest = parse_manifest(path.read_bytes(), origin=str(path))
    return not damaged_files(bundle, manifest) and not unlisted_files(bundle, manifest)


def _initial_weights(recipe: Recipe, workspace: Workspace) -> str:
    record = load_record(workspace.baseline_folder(recipe) / RECORD, BaselineRecord)
    return record.initial_weights if record is not None else "unknown: the baseline's record is missing"


def _verify(
    recipe: Recipe,
    baseline: Baseline,
    record: LevelRecord,
    *,
    pruned: Candidate,
    dense: Candidate,
    tflite: tuple[TfliteCandidate, ...],
    dense_tflite: tuple[FileFacts, ...],
    torch_logits: np.ndarray,
    initial: str,
) -> BundleFacts:
    limits, dataset, data = recipe.verify, baseline.dataset, recipe.data
    probe = normalise_pixels(np.asarray(dataset.test.images[:PROBE_IMAGES]), data.mean, data.std)
    latency = compare_latency(pruned.export.path, dense.export.path, probe)
    comparison = compare_accuracy(
        file_logits=pruned.logits, reference_logits=dense.logits, labels=np.asarray(dataset.test.labels)
    )
    gates: list[Gate] = [
        *check_graph(pruned.export.path),
        check_metadata(pruned.export.path, pruned.metadata),
        check_simplification(pruned.export.simplify_difference),
        *check_parity(
            file_logits=pruned.logits,
            torch_logits=torch_logits,
            min_agreement=limits.min_agreement,
            max_difference=limits.max_logit_difference,
        ),
        *check_accuracy(comparison, max_drop=limits.max_accuracy_drop),
        check_latency(latency),
        *(gate for file in tflite for gate in file.gates),
    ]
    if pruned.file_macs is not None:
        detail = f"channels padded to multiples of {FAST_MULTIPLE}, against the network as pruned, in torch"
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
        pruned=LevelFacts(costs=record.cost, val=record.val, test=record.test),
        dense=LevelFacts(costs=baseline.dense.cost, val=baseline.dense.val, test=baseline.dense.test),
        files=(
            _onnx_facts(pruned, comparison.accuracy, latency=latency),
            *(file.facts for file in tflite),
        ),
        dense_files=(_onnx_facts(dense, comparison.reference, latency=None), *dense_tflite),
        file_macs=pruned.file_macs,
        paired_p=comparison.p_value,
        verdict=Verdict(gates=tuple(gates)),
    )


def _onnx_facts(candidate: Candidate, accuracy: Accuracy, *, latency: LatencyComparison | None) -> FileFacts:
    return FileFacts(
        path=MODEL,
        bytes=candidate.export.size_bytes,
        runtime=f"onnxruntime {runtimes()['onnxruntime']}",
        accuracy=accuracy,
        layout="NCHW float32",
        latency=latency,
    )


def _golden_vectors(test: PackedSplit, onnx: Candidate, tflite: tuple[TfliteCandidate, ...]) -> GoldenVectors:
    """Test images in turns from every class, so that a network that always gives one answer cannot pass."""
    by_class = [np.flatnonzero(np.asarray(test.labels) == label) for label in np.unique(test.labels)]
    rounds = max(len(indices) for indices in by_class)
    in_turns = [int(indices[turn]) for turn in range(rounds) for indices in by_class if turn < len(indices)]
    chosen = in_turns[:_GOLDEN_IMAGES]
    return GoldenVectors(
        images=np.asarray(test.images[chosen]),
        labels=tuple(int(test.labels[index]) for index in chosen),
        names=tuple(test.names[index] for index in chosen),
        outputs={MODEL: onnx.logits[chosen], **{file.facts.path: file.outputs[chosen] for file in tflite}},
        tolerance={
            MODEL: _GOLDEN_TOLERANCE * max(1.0, float(np.abs(onnx.logits).max())),
            **{file.facts.path: file.tolerance for file in tflite},
        },
    )
