"""Check a bundle anywhere: its bytes with the base install alone, its answers where the runtimes are installed.

No torch, and no trust: a file whose bytes are wrong is not opened any further.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeprune.errors import InputError
from edgeprune.formats import VerifyRecord, vector_folder
from edgeprune.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    damaged_files,
    parse_manifest,
    parse_record,
    unlisted_files,
)
from edgeprune.results import Gate, Verdict
from edgeprune.verify.bundle_texts import read_listed
from edgeprune.verify.replay import Replay, replay_models

# What only running the models can confirm: their answers, and that the texts beside them describe them.
_NEED_RUNTIME = frozenset({"model", "golden", "labels", "preprocess", "threshold", "c_source", "npu"})
# Kinds of gate that say something about a text: golden images have no metadata, and labels no say in the vectors.
_CONCERNS = {
    "golden": ("golden", "vectors"),
    "labels": ("metadata",),
    "preprocess": ("metadata", "vectors"),
    "threshold": ("threshold",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """What became of one file.

    Attributes:
        path: in the bundle.
        state: ``checked`` means everything that edgeprune can check about it held.
        reason: why it is not checked, or what is wrong.
    """

    path: str
    state: Literal["checked", "not checked", "failed"]
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.state}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleCheck:
    """What is known about a bundle after looking.

    Attributes:
        folder: where it is.
        bundle: its name; the folder's where the manifest is refused.
        files: one entry a file of the manifest, in its order.
        gates: every check that ran.
    """

    folder: Path
    bundle: str
    files: tuple[FileCheck, ...]
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """True when every check that ran held."""
        return Verdict(gates=self.gates).passed

    @property
    def complete(self) -> bool:
        """True when every file is ``checked``; what ``--require all`` asks for."""
        return bool(self.files) and all(file.state == "checked" for file in self.files)


def verify_bundle(folder: Path) -> BundleCheck:
    """Check a bundle: manifest, verdict, texts against each model's metadata, golden images against each model.

    Args:
        folder: with a ``manifest.json``.

    Returns:
        Gates with their verdicts; what is wrong with a bundle fails a gate and raises nothing.

    Raises:
        InputError: the folder has no manifest that can be read.
    """
    content = _read_manifest(folder)
    try:
        manifest = parse_manifest(content, origin=MANIFEST)
    except InputError as error:
        gate = Gate(name="manifest", figure="refused", limit="readable, intact", passed=False, detail=error.problem)
        return BundleCheck(folder=folder, bundle=folder.resolve().name, files=(), gates=(gate,))
    damaged, strangers = damaged_files(folder, manifest), unlisted_files(folder, manifest)
    gates = [_check_files(manifest, damaged, strangers)]
    if damaged or strangers:
        later = "the bundle's files are not those of its manifest"
        states = [
            FileCheck(path=entry.path, state="failed", reason=damaged[entry.path])
            if entry.path in damaged
            else FileCheck(path=entry.path, state="not checked", reason=later)
            for entry in manifest.files
        ]
        return BundleCheck(folder=folder, bundle=manifest.bundle, files=tuple(states), gates=tuple(gates))
    gates.append(_check_verdict(folder))
    replay = replay_models(folder, manifest)
    gates += replay.gates
    failed = {gate.name for gate in gates if not gate.passed}
    return BundleCheck(
        folder=folder,
        bundle=manifest.bundle,
        files=tuple(_file_state(entry, manifest, failed=failed, replay=replay) for entry in manifest.files),
        gates=tuple(gates),
    )


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{folder} is not a bundle: its {MANIFEST} cannot be read ({error.strerror}).",
            "give the folder of a bundle, such as exports/elpv96-s60",
        ) from None
    if len(content) > MAX_MANIFEST_BYTES:
        raise InputError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes.", "pull the bundle again")
    return content


def _check_files(manifest: Manifest, damaged: dict[str, str], strangers: tuple[str, ...]) -> Gate:
    problems = [f"{path} {problem}" for path, problem in damaged.items()]
    problems += [f"{path} is not in the manifest" for path in strangers]
    return Gate(
        name="manifest",
        figure=len(problems),
        limit="0 files missing, damaged or unlisted",
        passed=not problems,
        detail="; ".join(problems) or f"{len(manifest.files)} files, {manifest.size_bytes} bytes",
    )


def _check_verdict(folder: Path) -> Gate:
    limit = "passed, as every gate in it"
    try:
        record = parse_record(VerifyRecord, read_listed(folder / "verify.json"), origin="verify.json")
    except InputError as error:
        return Gate(name="verdict", figure="refused", limit=limit, passed=False, detail=error.problem)
    failed = [gate.name for gate in record.gates if not gate.passed]
    passed = record.passed and not failed
    return Gate(
        name="verdict",
        figure=f"{len(record.gates) - len(failed)} of {len(record.gates)} gates",
        limit=limit,
        passed=passed,
        detail="verify.json" if passed else f"verify.json: {', '.join(failed) or 'passed is false'}",
    )


def _file_state(entry: FileEntry, manifest: Manifest, *, failed: set[str], replay: Replay) -> FileCheck:
    path = entry.path
    if path == "verify.json":
        concerned, missing = failed & {"verdict", "recorded_gates"}, ""
    elif entry.role not in _NEED_RUNTIME:
        concerned, missing = set(), ""
    else:
        about = _models_about(entry, manifest)
        concerned = {gate for gate in failed if gate.partition(":")[2] in about and _concerns(gate, entry.role)}
        concerned |= failed & {"bundle_texts"}
        missing = next((replay.missing[model] for model in about if model in replay.missing), "")
    if concerned:
        return FileCheck(path=path, state="failed", reason=f"see the gate {', '.join(sorted(concerned))}")
    return FileCheck(path=path, state="not checked" if missing else "checked", reason=missing)


def _models_about(entry: FileEntry, manifest: Manifest) -> list[str]:
    """The paths whose gates speak about a file: a model's own, or those of every model that a text is about."""
    models = [other.path for other in manifest.files if other.role == "model"]
    if entry.role in ("model", "c_source", "npu"):
        return [entry.path]
    mine = [model for model in models if entry.path.startswith(vector_folder(model))]
    return mine or models


def _concerns(gate: str, role: str) -> bool:
    kind = gate.partition(":")[0]
    return role not in _CONCERNS or kind.startswith(_CONCERNS[role])
