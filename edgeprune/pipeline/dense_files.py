"""What the unpruned network's files weigh and score: every level is held against them, so they are made once."""

from dataclasses import dataclass

from edgeprune import __version__
from edgeprune.evaluation import predict_logits
from edgeprune.files import digest_json
from edgeprune.pipeline.baseline import Baseline
from edgeprune.pipeline.candidates import Candidate, runtimes
from edgeprune.pipeline.level_files import make_level_files
from edgeprune.pipeline.records import load_record, save_record
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.publish.facts import FileFacts
from edgeprune.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseFiles:
    """The unpruned network's files, as they were measured.

    Attributes:
        key: digest of everything that decides them.
        files: one entry a file.
    """

    key: str
    files: tuple[FileFacts, ...]


def make_dense_facts(
    recipe: Recipe,
    workspace: Workspace,
    reporter: Reporter,
    baseline: Baseline,
    *,
    onnx: Candidate,
) -> tuple[FileFacts, ...]:
    """What the unpruned network's files weigh and score; made once, since every level is held against them."""
    if set(recipe.export.formats) == {"onnx"}:
        return ()
    folder = workspace.level_folder(recipe, "dense")
    kept = load_record(folder / "files.json", DenseFiles)
    # It becomes no bundle: what is about golden inputs and thresholds alone changes nothing here.
    export = recipe.export.model_copy(update={"device": None, "golden": "images", "threshold": "none"})
    plain = recipe.model_copy(update={"export": export})
    key = digest_json(
        [
            __version__,
            baseline.weights,
            baseline.dataset.digest,
            plain.part_digest("data", "augment", "quantise", "export"),
            runtimes(),
        ]
    )
    if kept is None or kept.key != key:
        network, data = baseline.checkpoint.network, recipe.data
        made = make_level_files(
            plain,
            reporter,
            baseline,
            baseline.checkpoint,
            folder,
            record=None,
            onnx=onnx,
            torch_logits=predict_logits(network, baseline.dataset.test, mean=data.mean, std=data.std),
            device=None,
        )
        kept = DenseFiles(key=key, files=tuple(file.facts for file in made.models))
        save_record(folder / "files.json", kept)
    return kept.files
