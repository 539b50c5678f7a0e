"""The card of a baseline: README.md beside its weights."""

from collections.abc import Callable, Mapping

from edgeprune.results import CostReport, Evaluation


def render_baseline_card(
    *,
    name: str,
    network: str,
    pad: str,
    image_size: int,
    classes: tuple[str, ...],
    initial_weights: str,
    best_epoch: int,
    epochs: int,
    val: Evaluation,
    test: Evaluation,
    cost: CostReport,
    credit: str,
    data_digest: str,
    split_digest: str,
    split_sizes: Mapping[str, int],
    recipe_digest: str,
    unlabelled: int = 0,
    teacher: str = "",
) -> str:
    """Everything a stranger needs to judge the unpruned network, as Markdown.

    Args:
        name, network, pad, image_size, classes: of the recipe and the network.
        initial_weights: where training started.
        best_epoch, epochs: the kept epoch, chosen on validation, and all that were run.
        val, test: evaluations of the kept epoch.
        cost: parameters, MACs and memory.
        credit: origin and licence of the images.
        data_digest, split_digest, recipe_digest: name what it was made from.
        split_sizes: images per split.
        unlabelled: train images without a label.
        teacher: the file that training learnt from, with what it scores; empty without one.
    """
    padding = "TensorFlow's SAME at stride 2" if pad == "same" else "as in torchvision"
    sizes = ", ".join(f"{count} {split}" for split, count in split_sizes.items())
    taught = [f"- Teacher: {teacher}."] if teacher else []
    lacking = f", {unlabelled} of the train images without a label" if unlabelled else ""
    majority = max(sum(row) for row in test.confusion) / test.accuracy.n
    header = " | ".join(f"said {label}" for label in classes)
    rows = zip(classes, test.confusion, strict=True)
    confusion = [f"| {label} | {' | '.join(map(str, row))} |" for label, row in rows]
    return "\n".join(
        [
            f"# {name}: the unpruned network",
            "",
            f"`{network}` with {len(classes)} classes ({', '.join(classes)}) at {image_size}x{image_size} RGB, padding "
            f"{padding}. Made by `edgeprune train`; `recipe.yaml` beside this file is the whole recipe.",
            "",
            "| figure | validation | test |",
            "|---|---|---|",
            _row("accuracy", val, test, lambda evaluation: str(evaluation.accuracy)),
            _row("balanced accuracy", val, test, lambda evaluation: f"{evaluation.balanced_accuracy:.4f}"),
            _row("macro F1", val, test, lambda evaluation: f"{evaluation.macro_f1:.4f}"),
            _row("ROC AUC", val, test, lambda evaluation: f"{evaluation.roc_auc:.4f}"),
            "",
            f"Intervals are Wilson's. Always answering the most frequent class scores {majority:.4f} on test. The "
            f"epoch ({best_epoch} of {epochs}) was chosen on validation; test was looked at once, at the end.",
            "",
            f"| true class, test | {header} |",
            "|---|" + "---|" * len(classes),
            *confusion,
            "",
            f"- Initial weights: {initial_weights}.",
            *taught,
            f"- Size: {cost.params:,} parameters, {cost.checkpoint_bytes:,} bytes as float32 safetensors.",
            f"- Work: {cost.macs:,} MACs an image (counter fvcore), {cost.macs_thop:,} (counter thop).",
            f"- Peak activation memory: {cost.peak_activation_bytes:,} bytes as float32, at {cost.peak_activation_at}.",
            f"- Images: {sizes}{lacking}. Data digest `{data_digest[:16]}`, split digest `{split_digest[:16]}`, recipe "
            f"digest `{recipe_digest[:16]}`.",
            "",
            "## The images",
            "",
            credit,
            "",
        ]
    )


def _row(title: str, val: Evaluation, test: Evaluation, show: Callable[[Evaluation], str]) -> str:
    return f"| {title} | {show(val)} | {show(test)} |"
