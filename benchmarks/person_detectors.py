"""Person detectors as files, on the same images: accuracy, area under the ROC curve, and a paired test.

How: every file runs in LiteRT on the test split of a list of images (its own normalisation, its own input size), and
decides by argmax; the first file is compared with each of the others by the exact McNemar test. What a bundle's
threshold gives stands in its card.

    python benchmarks/person_detectors.py list.csv exports/person96/model_int8.tflite mlperf_vww_96_int8.tflite

Last figures (400 photographs of a Visual Wake Words subset, nearly all COCO): exports/person96 179,944 B, 0.7575
(0.7132 to 0.7969), AUC 0.8321; MLPerf Tiny's reference 333,288 B, 0.8050 (0.7633 to 0.8408), AUC 0.8775; 34 images won,
53 lost, p = 0.053.

``list.csv`` has the columns of a recipe's ``source: csv``. Files of other makers are taken to want pixels in [0, 1]
unless ``--mean`` and ``--std`` say otherwise; ours say so in the bundle.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from edgeprune.evaluation import evaluate_logits, predict_logits
from edgeprune.pipeline.baseline import open_dataset
from edgeprune.pipeline.workspace import SilentReporter, Workspace
from edgeprune.recipe import read_recipe
from edgeprune.teacher import FileTeacher
from edgeprune.verify.accuracy import compare_accuracy


def main() -> None:
    """Print a row for each file, and one for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", help="CSV of images")
    parser.add_argument("files", type=Path, nargs="+", help=".tflite")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/person96.yaml"))
    parser.add_argument("--mean", type=float, default=0.0)
    parser.add_argument("--std", type=float, default=1.0)
    asked = parser.parse_args()
    recipe = read_recipe(asked.recipe, data_path=asked.list)
    dataset = open_dataset(recipe, Workspace(Path()), SilentReporter())
    labels, answers = np.asarray(dataset.test.labels), {}
    for path in asked.files:
        bundle = path.parent / "preprocess.json"
        ours = json.loads(bundle.read_text(encoding="utf-8")) if bundle.exists() else {}
        network = FileTeacher(
            path,
            student_mean=recipe.data.mean,
            student_std=recipe.data.std,
            mean=ours.get("mean", (asked.mean,) * 3),
            std=ours.get("std", (asked.std,) * 3),
            order=(0, 1),
        )
        answers[path] = predict_logits(network, dataset.test, mean=recipe.data.mean, std=recipe.data.std)
        found = evaluate_logits(answers[path], dataset.test, seconds=0.0)
        print(f"{path} | {path.stat().st_size:,} B | {found.accuracy} | AUC {found.roc_auc:.4f}")
    first, *others = asked.files
    for other in others:
        compared = compare_accuracy(file_logits=answers[first], reference_logits=answers[other], labels=labels)
        print(
            f"{first.name} against {other.name}: {compared.won} images won, {compared.lost} lost, exact McNemar "
            f"p = {compared.p_value:.3g}"
        )


if __name__ == "__main__":
    main()
