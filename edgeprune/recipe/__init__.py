"""The recipe: one frozen, strict value that says everything a run does.

It is read from YAML, checked whole before any work, saved unchanged with what it made, and taken apart only by
``pipeline``: stages receive plain parameters. An unknown key is an error that names the nearest known one, because a
misspelt ``alpha`` that silently stays at its default has cost a run before.

- ``training_sections``, ``pruning_sections``, ``file_sections``: every key with its default, unit and limit.
- ``section``: what they have in common.
- ``sections``: all of them together, and their digests.
- ``reading``: from YAML to a recipe, with errors that name the nearest known key.
- ``yaml_dialect``: YAML without its surprises.
"""

from edgeprune.recipe.pruning_sections import PruneSection, RecoverSection
from edgeprune.recipe.reading import parse_recipe, read_recipe
from edgeprune.recipe.sections import Recipe

__all__ = ["PruneSection", "Recipe", "RecoverSection", "parse_recipe", "read_recipe"]
