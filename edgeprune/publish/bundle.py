"""One bundle, written whole or not at all, from files that have passed every gate."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgeprune.errors import EdgepruneError, GateFailedError, InputError
from edgeprune.files import staged_folder, write_atomic
from edgeprune.formats import THRESHOLD, GateRecord, VerifyRecord, encode_json, encode_record
from edgeprune.manifest import MANIFEST, FileEntry, Manifest, make_manifest
from edgeprune.publish.card import render_card
from edgeprune.publish.catalogue import CatalogueUpdate, rebuild_catalogue
from edgeprune.publish.facts import BundleFacts, GoldenVectors
from edgeprune.publish.golden import golden_files, preprocess_record
from edgeprune.publish.landing import replaceable_bundle, room_for
from edgeprune.publish.operating import threshold_record
from edgeprune.publish.size_report import render_size_report, size_values
from edgeprune.results import as_json

_TEXT = "text/plain; charset=utf-8"
_MARKDOWN = "text/markdown; charset=utf-8"
_JSON = "application/json"
# Neither ONNX nor TFLite has a registered media type.
_BINARY = "application/octet-stream"
_ROLES = {
    "labels.txt": ("labels", _TEXT),
    "preprocess.json": ("preprocess", _JSON),
    "threshold.json": ("threshold", _JSON),
    "size_report.json": ("size_report", _JSON),
    "size_report.md": ("size_report", _MARKDOWN),
    "verify.json": ("verify", _JSON),
    "config.yaml": ("recipe", "application/yaml"),
    "README.md": ("card", _MARKDOWN),
    "golden/golden.json": ("golden", _JSON),
}
# Folders whose files share a role.
_FOLDERS = {"golden/": "golden", "c/": "c_source", "vela/": "npu"}
_MEDIA_TYPES = {".md": _MARKDOWN, ".json": _JSON, ".csv": "text/csv; charset=utf-8"}
_SOURCE_ENDINGS = (".cc", ".cpp", ".h", ".txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle as it was written.

    Attributes:
        folder: where it is.
        manifest: every file with size and digest.
        manifest_sha256: of ``manifest.json`` itself, as the catalogue lists it.
        catalogue: ``index.json`` after the bundle was added.
    """

    folder: Path
    manifest: Manifest
    manifest_sha256: str
    catalogue: CatalogueUpdate


def publish_bundle(
    *,
    exports: Path,
    facts: BundleFacts,
    model_files: Mapping[str, Path],
    golden: GoldenVectors,
    config_yaml: str,
    environment: Mapping[str, str],
    extra_files: Mapping[str, bytes] = MappingProxyType({}),
) -> Bundle:
    """Write ``exports/<name>-<level>/`` and list it in ``exports/index.json``.

    An existing bundle of this name is replaced in one step, and stays as it was when anything goes wrong. Equal
    arguments give equal bytes: nothing here asks for the time.

    Args:
        exports: folder of bundles; it is made.
        facts: what was measured; its verdict must have passed.
        model_files: path in the bundle (``model.onnx``) to the verified file, for each of ``facts.files``.
        golden: real inputs with the outputs of each model file.
        config_yaml: the recipe with every default written out.
        environment: versions of the runtimes and the processor's name, for ``verify.json``.
        extra_files: path in the bundle, below ``c/`` or ``vela/``, to the file's bytes.

    Raises:
        GateFailedError: a gate failed, or there is none; nothing was written.
        InputError: a model file is missing or is not the one that was verified, a class name cannot be a line of
            text, a path breaks the manifest's rule, or the folder holds what is not ours.
        EdgepruneError: the disk is full; nothing was changed. Or only the catalogue could not be written.
        ValueError: the golden vectors do not fit the facts, or an extra file lies elsewhere.
    """
    _require_passed(facts)
    _require_lines(facts.classes)
    models = _read_models(facts, model_files)
    elsewhere = sorted(path for path in extra_files if not path.startswith(("c/", "vela/")))
    if elsewhere:
        raise ValueError(f"the extra file {elsewhere[0]} is neither below c/ nor below vela/")
    contents = {
        **models,
        **extra_files,
        **golden_files(facts, golden),
        "labels.txt": ("\n".join(facts.classes) + "\n").encode(),
        "preprocess.json": encode_record(preprocess_record(facts)),
        "size_report.json": encode_json(size_values(facts)),
        "size_report.md": render_size_report(facts).encode(),
        "verify.json": encode_record(_verify_record(facts, environment)),
        "config.yaml": config_yaml.encode(),
        "README.md": render_card(facts, c_source=any(path.startswith("c/") for path in extra_files)).encode(),
    }
    threshold = threshold_record(facts, golden)
    if threshold is not None:
        contents[THRESHOLD] = encode_record(threshold)
    manifest = make_manifest(
        name=facts.name,
        level=facts.level,
        version=facts.version,
        files=[_entry(path, content) for path, content in contents.items()],
    )
    manifest_bytes = encode_record(manifest)
    folder = exports / facts.bundle
    replaceable_bundle(folder)
    with room_for(manifest.size_bytes + len(manifest_bytes), folder), staged_folder(folder) as staged:
        for path, content in contents.items():
            write_atomic(staged / path, content)
        write_atomic(staged / MANIFEST, manifest_bytes)
    try:
        catalogue = rebuild_catalogue(exports)
    except OSError as error:
        raise EdgepruneError(
            f"{folder} is published, but {exports / 'index.json'} cannot be written: {error.strerror or error}.",
            "make room there and run the same command again",
        ) from None
    return Bundle(
        folder=folder,
        manifest=manifest,
        manifest_sha256=hashlib.sha256(manifest_bytes).hexdigest(),
        catalogue=catalogue,
    )


def _require_passed(facts: BundleFacts) -> None:
    if facts.verdict.passed:
        return
    failed = [f"{gate.name} is {gate.figure} (limit {gate.limit})" for gate in facts.verdict.gates if not gate.passed]
    raise GateFailedError(
        f"{facts.bundle} is not published: {'; '.join(failed) or 'no gate was run'}.",
        "look at verify.json beside the candidates, and mend what it names",
    )


def _require_lines(classes: tuple[str, ...]) -> None:
    for label in classes:
        # labels.txt has one line a class, whatever its reader takes for the end of a line.
        if label.splitlines() != [label] or label != label.strip():
            raise InputError(
                f"The class name {label!r} cannot be one line of labels.txt.", "rename that class's folder"
            )
    if len(set(classes)) != len(classes):
        raise InputError(f"The class names {', '.join(classes)} are not all different.", "rename one class's folder")


def _read_models(facts: BundleFacts, model_files: Mapping[str, Path]) -> dict[str, bytes]:
    models = {}
    for path, source in model_files.items():
        try:
            models[path] = source.read_bytes()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"{source} cannot be read: {reason}.", "export the level again") from None
    found = {path: len(content) for path, content in models.items()}
    verified = {file.path: file.bytes for file in facts.files}
    if found != verified:
        raise InputError(
            f"{facts.bundle}: the files to publish have {found} bytes, the verified ones {verified}.",
            "export the level again",
        )
    if not models:
        raise InputError(f"{facts.bundle} has no model file.", "name at least one format in export.formats")
    taken = sorted(path for path in models if path in _ROLES or path.startswith(tuple(_FOLDERS)))
    if taken:
        raise InputError(
            f"{facts.bundle}: {taken[0]} is the name of another file of a bundle.", "rename the model file"
        )
    return models


def _verify_record(facts: BundleFacts, environment: Mapping[str, str]) -> VerifyRecord:
    return VerifyRecord(
        passed=facts.verdict.passed,
        edgeprune=facts.version,
        gates=tuple(GateRecord.model_validate(as_json(gate)) for gate in facts.verdict.gates),
        environment=dict(environment),
    )


def _entry(path: str, content: bytes) -> FileEntry:
    role, media_type = _ROLES.get(path) or (_role(path), _media_type(path))
    return FileEntry(
        path=path, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), role=role, media_type=media_type
    )


def _role(path: str) -> str:
    return next((role for folder, role in _FOLDERS.items() if path.startswith(folder)), "model")


def _media_type(path: str) -> str:
    ending = Path(path).suffix
    return _TEXT if ending in _SOURCE_ENDINGS else _MEDIA_TYPES.get(ending, _BINARY)
