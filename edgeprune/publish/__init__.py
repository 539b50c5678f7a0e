"""Bundles: written whole once every gate has passed, listed in a catalogue, and pulled with every byte checked.

Only this stage writes ``exports/``. It imports neither torch nor, for pulling, numpy.

- ``publish_bundle`` takes ``BundleFacts`` and ``GoldenVectors`` and gives a ``Bundle``.
- ``pull_bundle`` takes a folder or a URL and gives a ``PulledBundle``.
- ``rebuild_catalogue`` writes ``index.json``; ``read_manifest`` reads what a bundle holds.
"""

from edgeprune.publish.bundle import Bundle, publish_bundle
from edgeprune.publish.catalogue import Catalogue, CatalogueEntry, parse_catalogue, rebuild_catalogue
from edgeprune.publish.facts import BundleFacts, DataFacts, FileFacts, GoldenVectors, LevelFacts
from edgeprune.publish.landing import read_manifest
from edgeprune.publish.pull import PulledBundle, pull_bundle

__all__ = [
    "Bundle",
    "BundleFacts",
    "Catalogue",
    "CatalogueEntry",
    "DataFacts",
    "FileFacts",
    "GoldenVectors",
    "LevelFacts",
    "PulledBundle",
    "parse_catalogue",
    "publish_bundle",
    "pull_bundle",
    "read_manifest",
    "rebuild_catalogue",
]
