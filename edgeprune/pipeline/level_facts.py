"""What is known of one level: the gates of its files, and everything that its bundle says about itself."""

from dataclasses import replace

import numpy as np

from edgeprune import __version__
from edgeprune.budget import parse_budget
from edgeprune.micro_scratch import cmsis_nn_scratch_bytes
from edgeprune.pipeline.baseline import Baseline
from edgeprune.pipeline.candidates import FAST_MULTIPLE, MODEL, PROBE_IMAGES, Candidate, runtimes
from edgeprune.pipeline.latency_table import probe_images
from edgeprune.pipeline.level_files import LevelFiles
from edgeprune.pipeline.model_file import FLOAT_TOLERANCE_SHARE, ModelFile
from edgeprune.pipeline.operating import choose_operating_point
from edgeprune.pipeline.records import RECORD, BaselineRecord, LevelRecord, load_record
from edgeprune.pipeline.tflite_files import tflite_inputs
from edgeprune.pipeline.workspace import Workspace
from edgeprune.publish.facts import BundleFacts, DataFacts, FileFacts, LevelFacts
from edgeprune.recipe import Recipe
from edgeprune.results import Accuracy, Gate, LatencyComparison, Verdict, at_most
from edgeprune.verify.accuracy import check_accuracy, compare_accuracy
from edgeprune.verify.budget import check_budget
from edgeprune.verify.latency import check_latency, compare_latency
from edgeprune.verify.layer_times import measure_call_ms
from edgeprune.verify.onnx_graph import check_graph, check_metadata
from edgeprune.verify.parity import check_parity, check_simplification

# LiteRT's latency is reported and decides nothing, so it gets less time than the one that does.
_LITERT_SECONDS = 1.5


def judge_level(
    recipe: Recipe,
    baseline: Baseline,
    record: LevelRecord,
    *,
    pruned: Candidate,
    dense: Candidate,
    others: LevelFiles,
    dense_others: tuple[FileFacts, ...],
    torch_logits: np.ndarray,
    workspace: Workspace,
) -> BundleFacts:
    """Hold the float ONNX file against torch and the unpruned network's file, and put all verdicts together.

    Args:
        recipe: limits.
        baseline: data set, and what the unpruned network costs.
        record: of the level.
        pruned, dense: float ONNX files of the level and of the unpruned network.
        others: the level's other files, judged already.
        dense_others: what the unpruned network's other files weigh and score.
        torch_logits: of the level in torch on the test split.
        workspace: where the baseline's record lies.
    """
    limits, dataset, data = recipe.verify, baseline.dataset, recipe.data
    probe = probe_images(recipe, baseline)
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
        *others.all_gates,
        *_budget_gates(record, pruned, others, probe),
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
        weights=_initial_weights(recipe, workspace),
        dynamic_batch=recipe.export.dynamic_batch,
        pruned=LevelFacts(costs=record.cost, val=record.val, test=record.test),
        dense=LevelFacts(costs=baseline.dense.cost, val=baseline.dense.val, test=baseline.dense.test),
        files=(
            replace(
                _onnx_facts(pruned, comparison.accuracy, latency=latency),
                operating=choose_operating_point(
                    recipe, dataset, pruned.export.path, pruned.logits, input=None, output=None
                ),
            ),
            *(_time_tflite(recipe, file, dense, dataset.test.images[:PROBE_IMAGES]) for file in others.models),
        ),
        dense_files=(_onnx_facts(dense, comparison.reference, latency=None), *dense_others),
        file_macs=pruned.file_macs,
        paired_p=comparison.p_value,
        npu=others.npu,
        device=recipe.without_local_paths().export.device,
        fits=others.fits,
        plain_arena_head_bytes=others.plain_arena_head_bytes,
        drawn=recipe.export.golden == "drawn",
        verdict=Verdict(gates=tuple(gates)),
    )


def _time_tflite(recipe: Recipe, file: ModelFile, dense: Candidate, images: np.ndarray) -> FileFacts:
    """A TFLite file's facts with its latency against the unpruned network's; other files have none of their own."""
    reference = dense.export.path.with_name(file.path.name)
    if file.path.suffix != ".tflite" or not reference.is_file():
        return file.facts
    inputs = tflite_inputs(recipe, np.asarray(images), file.facts.input)
    return replace(
        file.facts,
        latency=compare_latency(file.path, reference, inputs, budget_seconds=_LITERT_SECONDS),
    )


def as_model_file(candidate: Candidate, facts: BundleFacts) -> ModelFile:
    """The float ONNX file like all the others, for golden vectors."""
    return ModelFile(
        path=candidate.export.path,
        facts=facts.headline,
        outputs=candidate.logits,
        logits=candidate.logits,
        tolerance_share=FLOAT_TOLERANCE_SHARE,
        gates=facts.verdict.gates,
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


def _initial_weights(recipe: Recipe, workspace: Workspace) -> str:
    record = load_record(workspace.baseline_folder(recipe) / RECORD, BaselineRecord)
    return record.initial_weights if record is not None else "unknown: the baseline's record is missing"


def _budget_gates(record: LevelRecord, pruned: Candidate, others: LevelFiles, probe: np.ndarray) -> tuple[Gate, ...]:
    if not record.inputs.budget:
        return ()
    figures: dict[str, float] = {"macs": record.cost.macs, "params": record.cost.params}
    for file in others.models:
        facts = file.facts
        if facts.arena is not None:
            figures |= {"flash_bytes": facts.bytes, "ram_bytes": facts.arena.head_bytes}
            figures["arena_bytes"] = facts.arena.arena_bytes + cmsis_nn_scratch_bytes(file.path.read_bytes())
    budget = parse_budget(record.inputs.budget)
    if budget.latency_ms is not None:
        figures["latency_ms"] = measure_call_ms(pruned.export.path, probe)
    return check_budget(budget, figures)
