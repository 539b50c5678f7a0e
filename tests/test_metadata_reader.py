"""Our TFLite metadata in somebody else's reader: tflite-support's, in an environment of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from programs import IN_CI
from test_tflite_metadata import described, make_fields

pytestmark = pytest.mark.long

# Its own versions of everything: it holds protobuf at 3.
READER = "tflite-support==0.4.4"
PROGRAM = """
import json, sys
from tflite_support import metadata
shown = metadata.MetadataDisplayer.with_model_file(sys.argv[1])
files = {name: shown.get_associated_file_buffer(name).decode() for name in shown.get_packed_associated_file_list()}
print(json.dumps({"metadata": json.loads(shown.get_metadata_json()), "files": files}))
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with tflite-support; where a person's machine cannot have it, the test is left out."""
    folder = tmp_path_factory.mktemp("reader")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    for command in (["-m", "pip", "install", "-qq", READER], ["-c", "from tflite_support import metadata"]):
        run = subprocess.run([str(python), *command], capture_output=True, text=True, check=False)
        if run.returncode:
            last = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
            reason = f"{READER} is not to be had here (Debian: libusb-1.0-0): {last}"
            (pytest.fail if IN_CI else pytest.skip)(reason)
    return python


@pytest.mark.parametrize("int8", [False, True])
def test_an_independent_reader_finds_normalisation_labels_name_and_version(
    reader: Path, tmp_path: Path, int8: bool
) -> None:
    """What only our own code can read is no standard."""
    path = tmp_path / "model.tflite"
    path.write_bytes(described(int8=int8))
    run = subprocess.run([str(reader), "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    fields, metadata = make_fields(int8=int8), found["metadata"]
    assert metadata["name"] == f"{fields.name}-{fields.level}"
    assert metadata["version"] == fields.version
    assert found["files"]["labels.txt"].split() == list(fields.labels)
    (graph,) = metadata["subgraph_metadata"]
    (unit,) = graph["input_tensor_metadata"][0]["process_units"]
    assert unit["options_type"] == "NormalizationOptions"
    # The public schema normalises pixels of 0 to 255.
    assert unit["options"]["mean"] == pytest.approx([255 * value for value in fields.mean], rel=1e-5)
    assert unit["options"]["std"] == pytest.approx([255 * value for value in fields.std], rel=1e-5)
