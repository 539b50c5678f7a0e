"""The C++ source in a bundle's ``c/``, parsed back: the array is the file, every constant is the one it should be.

``check_c_source`` is for an export, and compiles and runs it too. ``check_c_files`` is for a bundle that came from
elsewhere: it reads, and never compiles or runs what it was given.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.cpp_literals import namespace_of
from edgeprune.embedded import ArenaReport, Quantisation
from edgeprune.errors import InputError
from edgeprune.formats import FileInput, feed_images
from edgeprune.manifest import Manifest
from edgeprune.preprocess import IntegerPreprocess
from edgeprune.results import Gate
from edgeprune.verify.bundle_texts import BundleTexts, read_listed
from edgeprune.verify.c_build import build_sources, check_preprocess, compiler_notes
from edgeprune.verify.c_text import ExpectedSource, check_texts, text_gate
from edgeprune.verify.threshold import read_threshold

if TYPE_CHECKING:
    import numpy as np


def check_c_source(
    files: Mapping[str, bytes],
    *,
    model: bytes,
    integer: IntegerPreprocess,
    golden_images: "np.ndarray",
    golden_inputs: "np.ndarray",
    rotate_180: bool,
    arena: ArenaReport | None = None,
    golden_outputs: "np.ndarray | None" = None,
    decision_difference: int | None = None,
    path: str = "c/",
) -> tuple[Gate, ...]:
    """Gates of the source that an export is about to publish.

    Args:
        files: path in the bundle to content.
        model: the int8 file that ships.
        integer: the preprocessing of its input.
        golden_images: uint8, shape (n, height, width, 3), upright.
        golden_inputs: int8, shape (n, height, width, 3), as fed.
        rotate_180: the image is fed rotated.
        arena: as it was measured.
        golden_outputs: int8, shape (n, classes).
        decision_difference: where two classes are cut, in steps; None where argmax decides.
        path: of the folder.

    Returns:
        ``c_array``, ``c_settings``, ``c_labels``, ``c_operators`` and ``c_golden``, each with the file it is about;
        ``c_compiles_gpp`` and ``c_preprocess`` where g++ is installed, ``c_compiles_arm`` where arm-none-eabi-g++ is.
        What is not installed is told in the detail of the first gate, and by ``compiler_notes``.

    Raises:
        InputError: the model is no int8 TFLite file with our metadata.
    """
    from edgeprune.tflite_metadata import read_metadata
    from edgeprune.verify.litert import read_io

    metadata, tensors = read_metadata(model, origin="the model"), read_io(model)
    if tensors.input is None or tensors.output is None:
        raise InputError("The model is not int8.", "give the int8 file")
    expected = ExpectedSource(
        model=model,
        labels=metadata.labels,
        image_size=metadata.image_size,
        input=tensors.input,
        output=tensors.output,
        integer=integer,
        rotate_180=rotate_180,
        arena=arena,
        golden_images=golden_images,
        golden_inputs=golden_inputs,
        golden_outputs=golden_outputs,
        golden_labels=None,
        tolerance_lsb=None,
        decision_difference=decision_difference,
    )
    sources = {name.removeprefix(path): content for name, content in files.items()}
    first, *others = check_texts(sources, expected, path)
    notes = compiler_notes()
    if notes:
        first = replace(first, detail="; ".join(filter(None, (first.detail, *notes))))
    gates = [first, *others]
    with build_sources(sources) as built:
        gates += built.gates
        if built.objects:
            gates.append(
                check_preprocess(
                    built,
                    namespace_of(f"{metadata.name}-{metadata.level}"),
                    integer=integer,
                    golden_images=golden_images,
                    golden_inputs=golden_inputs,
                    rotate_180=rotate_180,
                )
            )
    return tuple(gates)


def check_c_files(folder: Path, manifest: Manifest, texts: BundleTexts) -> list[Gate]:
    """A gate for each C++ source file of a bundle whose bytes are right, from what lies beside it in the bundle.

    Args:
        folder, manifest: every listed file is there, with the size and digest it should have.
        texts: as read; they agree with each other.

    Returns:
        ``c_array``, ``c_settings``, ``c_labels``, ``c_operators``, ``c_golden``, and for files that hold only code
        ``c_belongs``: it is in the bundle's namespace. Each name ends in the file's path. None without such files.
    """
    paths = [entry.path for entry in manifest.files if entry.role == "c_source"]
    if not paths:
        return []
    try:
        sources = {name.removeprefix("c/"): read_listed(folder / name) for name in paths}
        gates = check_texts(sources, _expected_of(folder, texts), "c/")
    except (InputError, ValueError, ArithmeticError) as error:
        problem = error.problem if isinstance(error, InputError) else str(error)
        return [text_gate("c_belongs", name, [problem]) for name in paths]
    told = {gate.name.partition(":")[2] for gate in gates}
    namespace = namespace_of(manifest.bundle)
    for name in sorted(set(paths) - told):
        opening = f"namespace {namespace} {{" if name.endswith((".h", ".cc")) else namespace
        missing = opening.encode() not in sources[name.removeprefix("c/")]
        gates.append(text_gate("c_belongs", name, [f"it has no {opening!r}"] if missing else []))
    return gates


def _expected_of(folder: Path, texts: BundleTexts) -> ExpectedSource:
    import numpy as np

    file = _int8_file(texts)
    golden = texts.golden_of(file.path)
    if golden is None or file.input.quantisation is None or file.output.quantisation is None or file.integer is None:
        raise ValueError(f"the bundle's texts do not say how {file.path} is fed")
    threshold = read_threshold(folder)
    cut = threshold.of(file.path) if threshold else None
    source, result, rule = file.input.quantisation, file.output.quantisation, file.integer
    with np.errstate(all="ignore"):
        inputs = feed_images(texts.images, file, mean=texts.rule.mean, std=texts.rule.std)
    return ExpectedSource(
        model=read_listed(folder / file.path),
        labels=texts.labels,
        image_size=texts.rule.image_size,
        input=Quantisation(scale=source.scale, zero_point=source.zero_point),
        output=Quantisation(scale=result.scale, zero_point=result.zero_point),
        integer=IntegerPreprocess(multiplier=rule.multiplier, offset=rule.offset, shift=rule.shift),
        rotate_180=file.rotate_180,
        arena=None,
        golden_images=texts.images,
        golden_inputs=inputs,
        golden_outputs=np.asarray(golden.outputs),
        golden_labels=tuple(
            texts.labels.index(image.label) if image.label in texts.labels else -1 for image in texts.golden.images
        ),
        tolerance_lsb=golden.tolerance_lsb,
        decision_difference=None if cut is None else int(cut.difference),
    )


def _int8_file(texts: BundleTexts) -> FileInput:
    for file in texts.rule.files:
        if file.path.endswith(".tflite") and file.input.dtype == "int8" and file.layout == "NHWC":
            return file
    raise ValueError("the bundle has C++ source, and no int8 TFLite file that it could be of")
