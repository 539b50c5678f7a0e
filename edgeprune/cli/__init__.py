"""The command line; nothing else in edgeprune prints."""

from edgeprune.cli.commands import app
from edgeprune.cli.entry import main

__all__ = ["app", "main"]
