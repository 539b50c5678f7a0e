"""A small image folder and a recipe that goes the whole way in seconds: bright discs on dark ground, or none."""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

SIZE = 32


def make_images(root: Path, *, per_class: int = 60, seed: int = 0) -> Path:
    """A folder of two classes of PNG files that a small network can learn to tell apart."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for label in ("disc", "empty"):
        (root / label).mkdir(parents=True)
        for index in range(per_class):
            image = generator.integers(0, 90, (SIZE, SIZE, 3))
            if label == "disc":
                centre = generator.integers(8, SIZE - 8, 2)
                image[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 36] += 120
            Image.fromarray(image.astype(np.uint8)).save(root / label / f"{index:03d}.png")
    return root


def write_recipe(path: Path, images: Path, **sections: object) -> Path:
    """A recipe for those images; keyword arguments replace whole sections, but for how `prune` ranks."""
    values: dict[str, object] = {
        "name": "tiny",
        "goal": "go the whole way in seconds",
        "data": {"source": "imagefolder", "path": str(images), "image_size": SIZE},
        "model": {"network": "mobilenet_v3_small", "weights": "none", "pad": "same"},
        "train": {"epochs": 4, "batch_size": 16, "lr": 0.003, "warmup_epochs": 1},
        "augment": {"flip_horizontal": True},
        "prune": {"targets": [0.3, 0.6]},
        "recover": {"epochs": 2, "batch_size": 16, "lr": 0.001, "lr_high": 0.001},
        # A tiny network on tiny images is not what these limits are for.
        "verify": {"max_accuracy_drop": 1.0},
        # The TFLite files have tests of their own; converting takes seconds each.
        "export": {"formats": ["onnx"]},
    } | sections
    # What a network looks at that has hardly learnt anything is noise, so that channels are ranked by weights.
    prune = values["prune"]
    assert isinstance(prune, dict)
    values["prune"] = {"importance": "l1_norm", "coupled": "producer"} | prune
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path
