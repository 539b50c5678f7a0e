"""The sweep file: which recipes to try. A base and a space over its keys, or a list of recipes as they are."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from edgeprune.errors import InputError
from edgeprune.recipe.reading import read_recipe
from edgeprune.recipe.section import Count, NotNegative, Section
from edgeprune.recipe.sections import Recipe
from edgeprune.recipe.yaml_dialect import StrictDumper, StrictLoader

Cost = Literal["macs", "params", "int8_bytes"]
Scalar = str | int | float | bool | None
# What each trial gets from the sweep itself.
_OWN_KEYS = frozenset({"name", "goal"})


class Dimension(Section):
    """The values that one key of the recipe may take: exactly one of these."""

    choice: Annotated[tuple[Scalar | tuple[Scalar, ...], ...], Field(min_length=1)] | None = Field(
        None, description="any of these; a list of lists for keys that hold lists"
    )
    uniform: tuple[float, float] | None = Field(None, description="a fraction between two others")
    log_uniform: tuple[float, float] | None = Field(None, description="the same, each decade equally likely")
    integer: tuple[int, int] | None = Field(None, description="a whole number, from the first to the second")

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a key of the space has one of {', '.join(type(self).model_fields)}, as choice: [1, 2]")
        bounds = self.bounds
        if bounds is not None and bounds[0] >= bounds[1]:
            raise ValueError(f"{given[0]} goes from the lower to the higher value")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError("log_uniform needs bounds above 0")
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The lowest and the highest value; None for a choice."""
        return self.uniform or self.log_uniform or self.integer

    @property
    def options(self) -> tuple[Any, ...]:
        """All values there are, in order; empty where they cannot be counted."""
        if self.choice is not None:
            return self.choice
        return tuple(range(self.integer[0], self.integer[1] + 1)) if self.integer is not None else ()


class ObjectiveSection(Section):
    """What TPE looks for: high validation accuracy of a trial's last level, and a low cost of it."""

    cost: Cost = Field("macs", description="macs, params, or int8_bytes: of the int8 file, as planned")


class EarlyStoppingSection(Section):
    """Asynchronous successive halving (ASHA) over the levels of a schedule."""

    first_level: Count = Field(1, description="levels that every trial may make")
    reduction: Annotated[int, Field(ge=2)] = Field(
        3, description="of so many trials one goes on, to so many times as many levels"
    )


class ResourcesSection(Section):
    """What one trial is given; so many run at once as fit."""

    cpus: Count = 1
    gpus: NotNegative = Field(0.0, description="0.5 lets two trials share a GPU")


class Sweep(Section):
    """Everything that a sweep tries."""

    # With room for `-t000` in the name of a recipe.
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,33}$")]
    goal: str = ""
    base: str | None = Field(None, description="the recipe that every trial changes, relative to this file")
    recipes: tuple[str, ...] = Field((), description="recipes to run as they are, relative to this file; without base")
    space: dict[str, Dimension] = Field({}, description="dotted key of the recipe to its values")
    search: Literal["grid", "random", "tpe"] = "random"
    trials: Count | None = Field(None, description="how many; all combinations for grid, 20 otherwise")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    objective: ObjectiveSection = ObjectiveSection()
    early_stopping: EarlyStoppingSection | None = None
    resources: ResourcesSection = ResourcesSection()
    retries: Annotated[int, Field(ge=0)] = Field(2, description="of a trial whose worker died")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.base is None) == (not self.recipes):
            raise ValueError("a sweep has a base and a space, or a list of recipes")
        if self.recipes and self.space:
            raise ValueError("recipes are run as they are: a space needs a base")
        if self.base is not None and not self.space:
            raise ValueError("the space is empty")
        endless = [key for key, dimension in self.space.items() if not dimension.options]
        if self.search == "grid" and endless:
            raise ValueError(f"a grid has no end in {endless[0]}: use choice or integer there, or search: random")
        return self

    @property
    def count(self) -> int:
        """Trials that there will be, at most."""
        if self.recipes:
            return len(self.recipes)
        combinations = 1
        for dimension in self.space.values():
            combinations *= len(dimension.options)
        if self.search == "grid":
            return min(combinations, self.trials or combinations)
        return self.trials or 20

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which trials there are; more of them, or other resources, leave finished ones as they are."""
        free = {"goal", "trials", "resources", "retries"}
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in free}

    def to_yaml(self) -> str:
        """The sweep with every default written out."""
        return yaml.dump(self.model_dump(mode="json"), Dumper=StrictDumper, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFile:
    """A sweep with the recipes that it names.

    Attributes:
        sweep: as written.
        base: the recipe that trials change, or None.
        recipes: those that are run as they are.
    """

    sweep: Sweep
    base: Recipe | None
    recipes: tuple[Recipe, ...]


def read_sweep(path: Path, *, data_path: str | None = None) -> SweepFile:
    """Read and check a sweep file and the recipes that it names.

    Args:
        path: YAML file.
        data_path: replaces ``data.path`` of every recipe, as for ``read_recipe``.

    Raises:
        InputError: no such file, not YAML, an unknown key there or in the space, or a recipe that cannot be read.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), StrictLoader)
    except FileNotFoundError:
        raise InputError(f"The sweep {path} does not exist.", "recipes/sweep.yaml is one to start from") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:  # ValueError: no UTF-8, or no such date
        reason = " ".join(str(error).split())
        raise InputError(f"The sweep {path} cannot be read: {reason}.", "mend that line of the YAML file") from None
    if not isinstance(values, dict):
        raise InputError(f"The sweep {path} is not a mapping of keys.", "start from recipes/sweep.yaml")
    sweep = _parse(values, origin=str(path))
    for key in sweep.space:
        _require_key(key, origin=str(path))
    base = read_recipe(path.parent / sweep.base, data_path=data_path) if sweep.base is not None else None
    recipes = tuple(read_recipe(path.parent / name, data_path=data_path) for name in sweep.recipes)
    names = [recipe.name for recipe in recipes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{path}: two recipes are called {twice!r}, and their levels would share a folder.", "rename one"
        )
    return SweepFile(sweep=sweep, base=base, recipes=recipes)


def replace_keys(recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as a mapping, with other values at dotted keys; not checked yet.

    >>> replace_keys(Recipe(name="a"), {"recover.lr": 0.1})["recover"]["lr"]
    0.1
    """
    changed: dict[str, Any] = recipe.model_dump(mode="json")
    for key, value in values.items():
        *parents, last = key.split(".")
        section = changed
        for parent in parents:
            section = section[parent]
        section[last] = value
    return changed


def _parse(values: dict[str, Any], *, origin: str) -> Sweep:
    try:
        return Sweep.model_validate(_as_tuples(values))
    except ValidationError as failure:
        error = failure.errors()[0]
        where = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            key, known = str(error["loc"][-1]), list(Dimension.model_fields)
            known = list(Sweep.model_fields) if len(error["loc"]) == 1 else known
            raise InputError(f"{origin}: unknown key `{where}`.", _nearest(key, known)) from None
        if error["type"] == "missing":
            raise InputError(f"{origin}: the key `{where}` is missing.", f"add a line `{where}: ...`") from None
        message = error["msg"].removeprefix("Value error, ")
        shown = "" if isinstance(error["input"], dict) else f" = {error['input']!r}"
        raise InputError(
            f"{origin}: {where or 'the sweep'}{shown} does not fit: {message}.",
            f"change {where or 'it'}; recipes/sweep.yaml is an example that works",
        ) from None


def _require_key(key: str, *, origin: str) -> None:
    section: type[BaseModel] = Recipe
    parts = key.split(".")
    for depth, part in enumerate(parts):
        known = [name for name in section.model_fields if depth or name not in _OWN_KEYS]
        if part not in known:
            raise InputError(f"{origin}: space.{key} is no key of a recipe.", _nearest(part, known))
        annotation, is_last = section.model_fields[part].annotation, depth + 1 == len(parts)
        inner = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        if inner is not None and is_last:
            first = next(iter(inner.model_fields))
            raise InputError(f"{origin}: space.{key} is a whole section.", f"one of its keys, as {key}.{first}")
        if inner is None and not is_last:
            raise InputError(f"{origin}: space.{key} goes below a value.", f"`{'.'.join(parts[: depth + 1])}`")
        section = inner or section


def _nearest(key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    return f"`{nearest[0]}`" if nearest else f"one of: {', '.join(known)}"


def _as_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_as_tuples(item) for item in value)
    return {key: _as_tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
