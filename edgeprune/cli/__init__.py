"""The command line; nothing else in edgeprune prints."""

from edgeprune.cli.commands import app, main

__all__ = ["app", "main"]
