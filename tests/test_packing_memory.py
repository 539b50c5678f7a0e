"""Memory stays flat however many images are packed: pixels go to disk as they come."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

IMAGES, SIZE = 50_000, 48
PIXELS_MB = IMAGES * SIZE * SIZE * 3 / 1e6
# The list itself, names, labels and digests take about 1 kB an image, what waits to be written a few MB.
GROWTH_LIMIT_MB = 100

PROGRAM = """
import json, resource, sys
from pathlib import Path
import numpy, PIL.Image
from edgeprune.data import load_dataset
unit = 1 if sys.platform == "darwin" else 1024  # bytes that ru_maxrss counts in
peaks = []
def measure(done, total):
    if done in (0, total // 2, total):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
measure(0, 1)
folder = Path(sys.argv[1])
data = load_dataset(source="csv", path=folder / "list.csv", image_size=int(sys.argv[2]), val_fraction=0.1,
                    test_fraction=0.1, split_seed=0, skip_broken=False, cache_dir=folder / "cache",
                    say=lambda line: None, progress=measure)
measure(0, 1)
print(json.dumps([len(data.train.names) + len(data.val.names) + len(data.test.names), *peaks]))
"""


@pytest.mark.long
def test_packing_50_000_images_takes_no_more_memory_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(0)
    for n in range(IMAGES):
        # The quickest format to write and to read.
        (tmp_path / "images" / f"{n}.ppm").write_bytes(b"P6 16 16 255\n" + generator.bytes(768))
    lines = "".join(f"images/{n}.ppm,{'ab'[n % 2]}\n" for n in range(IMAGES))
    (tmp_path / "list.csv").write_text("path,label\n" + lines)
    # By way of a small shell: a program starts with the peak of the one that it replaces, here of all tests.
    command = ["sh", "-c", '"$@"; exit', "sh", sys.executable, "-c", PROGRAM, str(tmp_path), str(SIZE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    packed, before, half, whole, opened = json.loads(done.stdout)
    assert packed == IMAGES
    assert PIXELS_MB > 3 * GROWTH_LIMIT_MB
    assert opened - before < GROWTH_LIMIT_MB
    assert whole - half < 0.1 * PIXELS_MB / 2
