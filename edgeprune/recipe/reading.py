"""From a YAML file to a checked recipe, or to a sentence that says what is wrong with it."""

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from edgeprune.errors import InputError
from edgeprune.recipe.sections import Recipe
from edgeprune.recipe.yaml_dialect import StrictLoader


def read_recipe(
    path: Path, *, data_path: str | None = None, weights: str | None = None, device: str | None = None
) -> Recipe:
    """Read and check a recipe.

    Args:
        path: YAML file.
        data_path: replaces ``data.path`` (DATA= on the command line); the source stays if it is csv, hf or vww, else
            it is imagefolder.
        weights: replaces ``model.weights``.
        device: replaces ``export.device``.

    Raises:
        InputError: no such file, not YAML, an unknown key (the nearest known one is named) or a value out of range.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), StrictLoader)
    except FileNotFoundError:
        recipes = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        known = ", ".join(recipes) or "none beside it"
        raise InputError(f"The recipe {path} does not exist.", f"RECIPE= one of: {known}") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:  # ValueError: no UTF-8, or no such date
        reason = " ".join(str(error).split())
        raise InputError(f"The recipe {path} cannot be read: {reason}.", "mend that line of the YAML file") from None
    if not isinstance(values, dict):
        raise InputError(f"The recipe {path} is not a mapping of keys.", "start from recipes/elpv96.yaml") from None
    if data_path is not None:
        data = values.get("data")
        named = data.get("source") if isinstance(data, dict) else None
        source = named if named in {"csv", "hf", "vww"} else "imagefolder"
        values["data"] = _override(data, source=source, path=data_path)
    if weights is not None:
        values["model"] = _override(values.get("model"), weights=weights)
    if device is not None:
        values["export"] = _override(values.get("export"), device=device)
    return parse_recipe(values, origin=str(path))


def parse_recipe(values: dict[str, Any], *, origin: str) -> Recipe:
    """Check a recipe that is already a mapping; ``origin`` names it in errors.

    Raises:
        InputError: as ``read_recipe``.
    """
    try:
        # Through YAML's own types: lists become tuples, whole numbers may stand for fractions, text never does.
        return Recipe.model_validate(_as_tuples(values))
    except ValidationError as failure:
        error = failure.errors()[0]
        where = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            raise _unknown_key(origin, [str(part) for part in error["loc"]]) from None
        if error["type"] == "missing":
            raise InputError(f"{origin}: the key `{where}` is missing.", f"add a line `{where}: ...`") from None
        message = error["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{origin}: {where or 'the recipe'} = {error['input']!r} does not fit: {message}.",
            f"change {where or 'it'} in the recipe; recipes/elpv96.yaml is an example that works",
        ) from None


def _as_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_as_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _as_tuples(item) for key, item in value.items()}
    return value


def _unknown_key(origin: str, location: list[str]) -> InputError:
    *parents, key = location
    section: type[BaseModel] = Recipe
    for parent in parents:
        annotation = section.model_fields[parent].annotation
        assert isinstance(annotation, type)
        section = annotation
    known = list(section.model_fields)
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    place = f" in `{'.'.join(parents)}`" if parents else ""
    remedy = f"`{nearest[0]}`" if nearest else f"one of: {', '.join(known)}"
    return InputError(f"{origin}: unknown key `{key}`{place}.", remedy)


def _override(section: Any, **values: str) -> Any:
    # What is no mapping stays as it is, for the check that follows to name.
    return {**(section or {}), **values} if section is None or isinstance(section, dict) else section
