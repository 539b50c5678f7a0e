"""A bundle from a folder or a static server, with every byte checked before anything has its final name."""

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.files import staged_folder
from edgeprune.formats import PreprocessRecord
from edgeprune.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    damaged_files,
    parse_manifest,
    parse_record,
)
from edgeprune.publish.catalogue import CATALOGUE, MAX_CATALOGUE_BYTES, CatalogueEntry, parse_catalogue
from edgeprune.publish.landing import replaceable_bundle, room_for
from edgeprune.publish.source import Place, open_place
from edgeprune.publish.transfer import copy_file, read_small


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledBundle:
    """A bundle that is whole and where it was asked for.

    Attributes:
        folder: where it is.
        name, level: as in its manifest.
        size_bytes: of all its files.
        up_to_date: every byte was there already; nothing was written.
        replaced: another bundle of this name was there, and is gone.
        usage: three lines to use it.
    """

    folder: Path
    name: str
    level: str
    size_bytes: int
    up_to_date: bool
    replaced: bool
    usage: tuple[str, str, str]


def pull_bundle(
    *,
    source: str,
    name: str | None,
    to: Path,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
    timeout_seconds: float = 30.0,
) -> PulledBundle:
    """Copy a bundle to ``to/<bundle>``, whole or not at all.

    What is there already is left alone when it is the same, byte for byte; another bundle of the same name is replaced
    in one step, after the new one has been checked.

    Args:
        source: a folder or an http(s) address with an ``index.json``, or one bundle itself.
        name: the bundle, such as ``elpv96-s60``, or its folder; may be None where there is only one.
        to: folder that the bundle's folder appears in; it is made.
        say: told in one line what happens.
        progress: called with bytes that are there, and bytes in all.
        timeout_seconds: of each wait for a server.

    Raises:
        InputError: no such source or bundle, a manifest that is refused, a file that is not what the manifest says, or
            a place that holds what is not ours.
        EdgepruneError: the connection dropped again and again, or the disk is full; nothing has changed.
    """
    place = open_place(source, timeout_seconds=timeout_seconds)
    prefix, content = _find_manifest(place, source, name, say)
    manifest = parse_manifest(content, origin=place.describe(prefix + MANIFEST))
    if name is not None and name not in {manifest.bundle, manifest.name}:
        raise InputError(
            f"{source} is the bundle {manifest.bundle}, not {name}.", f"the name {manifest.bundle}, or none"
        )
    folder = to / manifest.bundle
    if _is_same(folder, manifest, content):
        say(f"{folder} is up to date")
        return _pulled(folder, manifest, up_to_date=True, replaced=False)
    replaced = replaceable_bundle(folder) is not None
    if replaced:
        say(f"{folder} differs; it will be replaced once the new one is checked")
    say(f"pulling {manifest.bundle}: {len(manifest.files)} files, {manifest.size_bytes:,} bytes")
    done = 0
    with room_for(manifest.size_bytes + len(content), folder), staged_folder(folder) as staged:
        for entry in manifest.files:
            target = staged / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(
                place,
                prefix + entry.path,
                target,
                size_bytes=entry.bytes,
                sha256=entry.sha256,
                say=say,
                progress=_shifted(progress, done, manifest.size_bytes),
            )
            done += entry.bytes
        (staged / MANIFEST).write_bytes(content)
    return _pulled(folder, manifest, up_to_date=False, replaced=replaced)


def _find_manifest(place: Place, source: str, name: str | None, say: Callable[[str], None]) -> tuple[str, bytes]:
    try:
        listing = read_small(place, CATALOGUE, limit=MAX_CATALOGUE_BYTES, say=say)
    except FileNotFoundError:
        try:
            # No catalogue: the source may be one bundle itself.
            return "", read_small(place, MANIFEST, limit=MAX_MANIFEST_BYTES, say=say)
        except FileNotFoundError:
            raise InputError(
                f"{source} has neither {CATALOGUE} nor {MANIFEST}.", "give the folder that `edgeprune export` filled"
            ) from None
    catalogue = parse_catalogue(listing, origin=place.describe(CATALOGUE))
    entry = _choose(source, catalogue.bundles, name)
    prefix = f"{entry.path}/"
    shown = place.describe(prefix + MANIFEST)
    try:
        content = read_small(place, prefix + MANIFEST, limit=MAX_MANIFEST_BYTES, say=say)
    except FileNotFoundError:
        raise InputError(f"{shown} is in the catalogue but missing.", "publish the bundle again") from None
    found = hashlib.sha256(content).hexdigest()
    if found != entry.manifest_sha256:
        raise InputError(
            f"{shown} has SHA-256 {found[:12]}..., the catalogue says {entry.manifest_sha256[:12]}....",
            "try again, or publish the bundle again",
        )
    return prefix, content


def _choose(source: str, entries: tuple[CatalogueEntry, ...], name: str | None) -> CatalogueEntry:
    known = {entry.bundle: entry for entry in entries}
    named = {entry.path: entry for entry in entries} | known
    if not known:
        raise InputError(f"{source} lists no bundle.", "publish one with `edgeprune export`")
    if name is None:
        if len(entries) == 1:
            return entries[0]
        raise InputError(
            f"{source} lists {len(known)} bundles, and none was named.", f"name one of: {', '.join(known)}"
        )
    if name not in named:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        remedy = nearest[0] if nearest else f"one of: {', '.join(known)}"
        raise InputError(f"{source} lists no bundle {name!r}; it has {', '.join(known)}.", remedy)
    return named[name]


def _is_same(folder: Path, manifest: Manifest, content: bytes) -> bool:
    try:
        there = (folder / MANIFEST).read_bytes()
    except OSError:
        return False
    return there == content and not damaged_files(folder, manifest)


def _shifted(progress: Callable[[int, int], None] | None, before: int, total: int) -> Callable[[int], None]:
    def report(done: int) -> None:
        if progress is not None:
            progress(before + done, total)

    return report


def _pulled(folder: Path, manifest: Manifest, *, up_to_date: bool, replaced: bool) -> PulledBundle:
    return PulledBundle(
        folder=folder,
        name=manifest.name,
        level=manifest.level,
        size_bytes=manifest.size_bytes,
        up_to_date=up_to_date,
        replaced=replaced,
        usage=_usage(folder, manifest),
    )


def _usage(folder: Path, manifest: Manifest) -> tuple[str, str, str]:
    models = [entry.path for entry in manifest.files if entry.role == "model" and entry.path.endswith(".onnx")]
    try:
        rule = parse_record(PreprocessRecord, (folder / "preprocess.json").read_bytes(), origin="preprocess.json")
        file = next(file for file in rule.files if file.path == models[0])
        return (
            "import numpy, onnxruntime",
            f"session = onnxruntime.InferenceSession({str(folder / models[0])!r})",
            f'logits = session.run(["{file.output.name}"], '
            f'{{"{file.input.name}": numpy.zeros({file.input.shape}, "float32")}})[0]'
            "  # real pixels: see README.md",
        )
    except (OSError, IndexError, InputError, StopIteration):
        # A bundle for another runtime: its card knows.
        return (f"cd {folder}", "edgeprune verify .", "cat README.md")
