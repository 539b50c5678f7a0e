"""``README.md`` of a bundle: everything a stranger needs to run it, to trust it, and to know where it ends."""

from edgeprune.publish.card_running import describe_running
from edgeprune.publish.facts import BundleFacts
from edgeprune.publish.figures import (
    accuracy_cell,
    change,
    escape_cell,
    figure_table,
    int8_sentences,
    latency_sentences,
)
from edgeprune.publish.operating import threshold_lines


def render_card(facts: BundleFacts, *, c_source: bool = False) -> str:
    """The card as Markdown.

    Args:
        facts: of a level whose gates have passed.
        c_source: the bundle has the folder ``c/``.
    """
    sections = [
        _introduction(facts),
        describe_running(facts, c_source=c_source),
        _figures(facts),
        *_threshold(facts),
        _checking(facts),
        _data(facts),
        _making(facts),
        _limits(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _introduction(facts: BundleFacts) -> str:
    classes = "\n".join(f"| {index} | {escape_cell(label)} |" for index, label in enumerate(facts.classes))
    goal = f"\n\nGoal of the recipe: {facts.goal.strip()}" if facts.goal.strip() else ""
    return f"""\
# {facts.bundle}

An image classifier for {facts.image_size} x {facts.image_size} pixels and {len(facts.classes)} classes: \
`{facts.network}`, from which edgeprune {facts.version} removed {facts.achieved * 100:.2f} % of the prunable channels \
({facts.target * 100:g} % were asked for). Every gate ({len(facts.verdict.gates)} of them) passed on the files in this \
folder before they were published; `verify.json` has each with its figure and its limit.{goal}

| index | class |
|---:|---|
{classes}"""


def _figures(facts: BundleFacts) -> str:
    pruned, dense = facts.pruned.test, facts.dense.test
    chance = (
        "so the two differ by more than chance explains"
        if facts.paired_p < 0.05
        else "so these images show no difference beyond chance"
    )
    rows = [
        ("accuracy of the network, test", accuracy_cell(dense.accuracy), accuracy_cell(pruned.accuracy)),
        (
            "accuracy of the network, val",
            accuracy_cell(facts.dense.val.accuracy),
            accuracy_cell(facts.pruned.val.accuracy),
        ),
        ("balanced accuracy, test", f"{dense.balanced_accuracy:.4f}", f"{pruned.balanced_accuracy:.4f}"),
        ("ROC AUC, test", f"{dense.roc_auc:.4f}", f"{pruned.roc_auc:.4f}"),
        ("F1, macro, test", f"{dense.macro_f1:.4f}", f"{pruned.macro_f1:.4f}"),
        ("mean cross entropy, test, nats", f"{dense.loss:.4f}", f"{pruned.loss:.4f}"),
    ]
    names = [escape_cell(label) for label in facts.classes]
    confusion = [
        f"| {name} | {' | '.join(str(count) for count in row)} |"
        for name, row in zip(names, pruned.confusion, strict=True)
    ]
    return "\n".join(
        [
            "## Figures",
            "",
            "`dense` is the same network before pruning. Intervals are 95 % (Wilson). The upper table is about the "
            "files, each in its own runtime, the lower one about the network in PyTorch.",
            "",
            *figure_table(facts),
            "",
            *latency_sentences(facts),
            f"Exact McNemar test of `{facts.headline.path}` against the dense one on the same "
            f"{facts.headline.accuracy.n} test images: p = {facts.paired_p:.3g}, {chance}.",
            *int8_sentences(facts),
            "",
            f"| | dense | {facts.level} |",
            "|---|---:|---:|",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"Test split ({pruned.accuracy.n} images; val has {facts.pruned.val.accuracy.n}) by true class (rows) and "
            "predicted class (columns):",
            "",
            f"| | {' | '.join(names)} |",
            f"|---|{'---:|' * len(names)}",
            *confusion,
        ]
    )


def _checking(facts: BundleFacts) -> str:
    return f"""\
## Check it

    pip install 'edgeprune[verify]'
    edgeprune verify {facts.bundle}

The command compares every byte with `manifest.json`, the files' metadata with the texts beside them, and replays the \
golden images in each file's runtime. {_extras(facts)}"""


def _extras(facts: BundleFacts) -> str:
    paths = [file.path for file in facts.files]
    if all(path.endswith(".onnx") for path in paths):
        return "It needs no PyTorch."
    brings = "the extra `mcu` brings that for the TFLite files"
    if any(path.endswith(".pte") for path in paths):
        brings += ", `executorch` for the .pte files"
    return f"What it has no runtime for is called not checked: {brings}."


def _data(facts: BundleFacts) -> str:
    sizes = ", ".join(f"{count:,} {split}" for split, count in facts.data.split_sizes.items())
    return f"""\
## Images

{facts.data.credit.strip()}

Source `{facts.data.source}`: {sizes}. Epochs were chosen on val; test chose nothing, it gave the gates and \
figures. {_golden(facts)}

| digest | SHA-256 |
|---|---|
| images | `{facts.data.digest}` |
| split | `{facts.data.split_digest}` |"""


def _golden(facts: BundleFacts) -> str:
    if not facts.drawn:
        return "The images in `golden/` come from test and stand under the images' licence."
    return (
        "The images in `golden/` are pictures drawn by edgeprune, no photographs, and may be passed on under its own "
        "licence. They show that files compute right, not how well they see: a label is what was drawn where the "
        f"classes are persons and none, and otherwise what `{facts.headline.path}` answers."
    )


def _threshold(facts: BundleFacts) -> list[str]:
    lines = threshold_lines(facts)
    return ["\n".join(lines).rstrip()] if lines else []


def _making(facts: BundleFacts) -> str:
    pruned, dense = facts.pruned.costs, facts.dense.costs
    multiple = (
        "one channel at a time" if facts.align == 1 else f"in blocks, so that layers keep multiples of {facts.align}"
    )
    padded = (
        " In the file, channels are padded with zeros to multiples of 4, which changes no output: "
        f"{facts.file_macs:,} MACs."
        if facts.file_macs is not None
        else ""
    )
    return f"""\
## How it was made

Training started from {facts.weights}. Channels were ranked by `{facts.importance}` over the whole network and removed \
{multiple}, step by step, each step with BatchNorm recalibration and distillation; padding is `{facts.pad}`. \
Parameters: {dense.params:,} to {pruned.params:,} ({change(dense.params, pruned.params)}). MACs of one image (fvcore): \
{dense.macs:,} to {pruned.macs:,} ({change(dense.macs, pruned.macs)}).{padded}

`config.yaml` is the whole recipe, with every default written out; its digest is `{facts.recipe_digest}`."""


def _limits(facts: BundleFacts) -> str:
    low, high = facts.headline.accuracy.interval
    cpus = dict.fromkeys(file.latency.cpu for file in facts.files if file.latency is not None)
    measured = (
        f"- Latency was measured on {', '.join(cpus)}. The ratio carries over to similar processors, the milliseconds "
        "do not.\n"
        if cpus
        else ""
    )
    memory = (
        "- The arena is what TFLite Micro's allocator says on a 64-bit host: measure it once on the device.\n"
        if any(file.arena for file in facts.files)
        else ""
    )
    return f"""\
## Limits

- It knows images like those it was trained on. Another camera, crop, or lighting needs a test set of its own; an \
image of something else still gets one of the {len(facts.classes)} classes.
- {facts.headline.accuracy.n} test images put the accuracy between {low * 100:.1f} and {high * 100:.1f} % (95 %); \
whether two bundles inside that range differ takes a paired test on the same images, as above.
- Softmax probabilities are not calibrated: set a threshold on images of your own.
{measured}{memory}- Peak activations are counted in float32 without a runtime's own memory.
- The licence of the images may bind what is made from them, this file included: read it before you ship."""
