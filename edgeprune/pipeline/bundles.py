"""From a finished level to a published bundle: audit, export, verify, publish.

The pruned file is always held against the unpruned baseline's file, exported the same way on the same machine.
"""

import platform
from dataclasses import dataclass, replace
from pathlib import Path

from edgeprune import __version__
from edgeprune.budget import Budget
from edgeprune.devices import DeviceProfile, load_device
from edgeprune.errors import EdgepruneError, GateFailedError
from edgeprune.files import digest_file, digest_json, write_json
from edgeprune.manifest import MANIFEST, damaged_files, parse_manifest, unlisted_files
from edgeprune.pipeline.baseline import Baseline, open_baseline
from edgeprune.pipeline.candidates import MODEL, Candidate, make_candidate, runtimes
from edgeprune.pipeline.dense_files import make_dense_facts
from edgeprune.pipeline.finished import choose_levels
from edgeprune.pipeline.golden_inputs import ask_golden, check_spread, choose_golden
from edgeprune.pipeline.level_facts import as_model_file, judge_level
from edgeprune.pipeline.operating import require_two_classes
from edgeprune.pipeline.prepared import PreparedLevel, prepare_levels
from edgeprune.pipeline.records import ExportRecord, Inputs, LevelRecord, load_record, save_record
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.publish.bundle import publish_bundle
from edgeprune.publish.catalogue import rebuild_catalogue
from edgeprune.publish.facts import FileFacts
from edgeprune.recipe import Recipe
from edgeprune.results import CostReport, Verdict, as_json


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


def export_levels(
    recipe: Recipe,
    workspace: Workspace,
    reporter: Reporter,
    *,
    target: float | None,
    budget: Budget | None = None,
    compact: bool = False,
) -> ExportOutcome:
    """Audit, export, verify and publish one level, or every finished one, unless its bundle is up to date.

    A level that fails does not keep the others from their bundles.

    Args:
        recipe: what made the levels, and the limits of the gates.
        workspace: where things lie.
        reporter: is told what goes on.
        target: the level's; None for all.
        budget: the level's, which it must then meet as exported.
        compact: the level ``compact``, which belongs to no target and is not among all.

    Raises:
        InputError: the level does not exist or was made by another recipe, there is none at all, or no such device.
    """
    device = load_device(recipe.export.device) if recipe.export.device else None
    baseline = open_baseline(recipe, workspace, reporter)
    require_two_classes(recipe, baseline.dataset.classes)
    levels = choose_levels(recipe, workspace, reporter, baseline, target=target, budget=budget, compact=compact)
    summaries: dict[str, ExportSummary] = {}
    for level, (folder, record) in levels.items():
        kept = _find_bundle(recipe, workspace, baseline, folder=folder, record=record, device=device)
        if kept is not None:
            summaries[level] = kept
    failures: dict[str, EdgepruneError] = {}
    stale = {level: found for level, found in levels.items() if level not in summaries}
    if stale:
        dense = make_candidate(
            recipe, baseline, baseline.checkpoint, workspace.level_folder(recipe, "dense"), record=None
        )
        dense_others = make_dense_facts(recipe, workspace, reporter, baseline, onnx=dense)
        # All of them before the first is timed: the next would still be at work beside it.
        for level, prepared in list(prepare_levels(recipe, workspace, reporter, baseline, stale, device=device)):
            folder, record = stale[level]
            try:
                if isinstance(prepared, EdgepruneError):
                    raise prepared
                summaries[level] = _publish_level(
                    recipe,
                    workspace,
                    reporter,
                    baseline,
                    prepared,
                    dense=dense,
                    dense_others=dense_others,
                    folder=folder,
                    record=record,
                    device=device,
                )
            except EdgepruneError as error:
                failures[level] = error
    else:
        rebuild_catalogue(workspace.exports)
    return ExportOutcome(summaries=tuple(summaries[level] for level in levels if level in summaries), failures=failures)


def _inputs(recipe: Recipe, baseline: Baseline, record: LevelRecord, device: DeviceProfile | None) -> Inputs:
    # A new runtime must prove the file anew, and so must another figure in a device's profile.
    profile = device.model_dump(mode="json") if device else None
    return Inputs(
        edgeprune=__version__,
        recipe_part=digest_json([runtimes(), recipe.digest, profile]),
        dataset=baseline.dataset.digest,
        parent=record.weights,
        baseline=baseline.weights,
        target=record.plan.target,
    )


def _find_bundle(
    recipe: Recipe,
    workspace: Workspace,
    baseline: Baseline,
    *,
    folder: Path,
    record: LevelRecord,
    device: DeviceProfile | None,
) -> ExportSummary | None:
    """The bundle that was published from the same things and is still whole."""
    bundle = workspace.exports / f"{recipe.name}-{record.level}"
    done = load_record(folder / "export.json", ExportRecord)
    if done is None or done.inputs != _inputs(recipe, baseline, record, device) or not _is_intact(bundle, done):
        return None
    return ExportSummary(
        level=record.level,
        bundle=bundle,
        verdict=done.verdict,
        cost=record.cost,
        dense_cost=baseline.dense.cost,
        file_bytes=(bundle / MODEL).stat().st_size,
        dense_file_bytes=done.dense_file_bytes,
        up_to_date=True,
    )


def _publish_level(
    recipe: Recipe,
    workspace: Workspace,
    reporter: Reporter,
    baseline: Baseline,
    prepared: PreparedLevel,
    *,
    dense: Candidate,
    dense_others: tuple[FileFacts, ...],
    folder: Path,
    record: LevelRecord,
    device: DeviceProfile | None,
) -> ExportSummary:
    level, test = record.level, baseline.dataset.test
    with reporter.track(f"judging {level}") as progress:
        facts = judge_level(
            recipe,
            baseline,
            record,
            pruned=prepared.onnx,
            dense=dense,
            others=prepared.others,
            dense_others=dense_others,
            torch_logits=prepared.torch_logits,
            workspace=workspace,
        )
        files = (as_model_file(prepared.onnx, facts), *prepared.others.models)
        inputs = choose_golden(recipe, test, baseline.dataset.classes, prepared.onnx)
        golden = ask_golden(recipe, inputs, files)
        if facts.drawn:
            facts = replace(facts, verdict=Verdict(gates=(*facts.verdict.gates, *check_spread(golden, files))))
        progress(1, 2)
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
            model_files={file.facts.path: file.path for file in files},
            golden=golden,
            config_yaml=recipe.without_local_paths().to_yaml(),
            environment={
                **runtimes(),
                "cpu": facts.headline.latency.cpu if facts.headline.latency else "unknown",
                "python": platform.python_version(),
                "system": platform.system(),
            },
            extra_files=prepared.others.extra_files,
        )
        for note in published.catalogue.left_out:
            reporter.say(f"not in index.json: {note}")
        kept = ExportRecord(
            inputs=_inputs(recipe, baseline, record, device),
            verdict=verdict,
            manifest=published.manifest_sha256,
            dense_file_bytes=dense.export.size_bytes,
        )
        save_record(folder / "export.json", kept)
        progress(2, 2)
    return ExportSummary(
        level=level,
        bundle=published.folder,
        verdict=verdict,
        cost=prepared.cost,
        dense_cost=baseline.dense.cost,
        file_bytes=prepared.onnx.export.size_bytes,
        dense_file_bytes=dense.export.size_bytes,
        up_to_date=False,
    )


def _is_intact(bundle: Path, done: ExportRecord) -> bool:
    path = bundle / MANIFEST
    if not done.manifest or not path.is_file() or digest_file(path) != done.manifest:
        return False
    manifest = parse_manifest(path.read_bytes(), origin=str(path))
    return not damaged_files(bundle, manifest) and not unlisted_files(bundle, manifest)
