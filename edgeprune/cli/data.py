"""``edgeprune data``: images before training: Visual Wake Words from COCO, and the cache of a recipe."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprune.cli.console import make_table, open_reporter, print_json, show_table
from edgeprune.cli.options import DEFAULT_RECIPE, DataOption, JsonOption, RecipeArgument, open_workspace
from edgeprune.errors import InputError

if TYPE_CHECKING:
    from edgeprune.data import Dataset
    from edgeprune.data.vww import VwwSurvey

_UNLABELLED = "unlabelled"

data_app = typer.Typer(
    help="Prepare images: `vww` makes Visual Wake Words of COCO; `pack RECIPE` decodes a recipe's. Both take --json.",
    epilog="Example: edgeprune data pack recipes/elpv96.yaml",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@data_app.command(epilog="Example: edgeprune data vww --coco coco --out coco/vww.csv")
def vww(
    *,
    coco: Annotated[
        Path, typer.Option("--coco", metavar="DIR", help="holds annotations/ and train2014/ val2014/ (or 2017)")
    ],
    minival: Annotated[
        Path | None,
        typer.Option(
            "--minival", metavar="FILE", help="ids of the test images; by default mscoco_minival_ids.txt in DIR, if any"
        ),
    ] = None,
    val_fraction: Annotated[
        float, typer.Option("--val-fraction", metavar="F", help="share of train that becomes val, as in a recipe")
    ] = 0.15,
    split_seed: Annotated[
        int, typer.Option("--split-seed", metavar="N", help="another seed, another val, as in a recipe")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="LIST", help="write a .csv list for `data: {source: csv}`")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Label COCO's images by the rule of Visual Wake Words, split them as published, count them.

    An image shows a person when one annotation's area is over 0.5 % of it. A recipe reads the same images with
    `data: {source: vww, path: DIR}`.
    """
    if not 0 < val_fraction < 1:
        raise InputError(f"--val-fraction {val_fraction:g} is outside (0, 1).", "--val-fraction 0.15")
    if out is not None and out.suffix.lower() != ".csv":
        raise InputError(f"--out {out} is no .csv file.", f"--out {out.with_suffix('.csv')}")
    from edgeprune.data.vww import survey_vww, write_list

    cache = open_workspace().cache
    with open_reporter(quiet=as_json) as reporter, reporter.track("reading annotations") as progress:
        survey = survey_vww(
            coco,
            minival=minival,
            val_fraction=val_fraction,
            split_seed=split_seed,
            cache_dir=cache,
            say=reporter.say,
            progress=progress,
        )
    if out is not None:
        write_list(survey, out)
    if as_json:
        print_json(_vww_values(survey, out))
        return
    _print_counts(_count_files(survey), survey.listing.classes, missing=survey.missing)
    for part in survey.parts:
        if part.met:
            typer.echo(f"{part.splits}: {part.present:,} images, as published")
    for note in survey.listing.notes:
        typer.echo(note)
    if out is not None:
        typer.echo(f"{out}: {len(survey.listing.files):,} images")


@data_app.command(epilog="Example: edgeprune data pack recipes/elpv96.yaml")
def pack(recipe: RecipeArgument = DEFAULT_RECIPE, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Decode a recipe's images into the cache ahead of training, and count them by split and class."""
    from edgeprune.recipe import read_recipe

    values = read_recipe(recipe, data_path=data)
    from edgeprune.pipeline.baseline import open_dataset

    with open_reporter(quiet=as_json) as reporter:
        dataset = open_dataset(values, open_workspace(), reporter)
    counts = _count_rows(dataset)
    if as_json:
        print_json(
            {
                "source": dataset.source,
                "image_size": dataset.image_size,
                "splits": _nested(counts),
                "skipped": list(dataset.skipped),
                "digest": dataset.digest,
            }
        )
        return
    _print_counts(counts, dataset.classes)
    typer.echo(f"{dataset.image_size} x {dataset.image_size} pixels, data set {dataset.digest[:12]}")


def _count_files(survey: "VwwSurvey") -> Counter[tuple[str, str]]:
    return Counter((file.split, survey.listing.classes[file.label]) for file in survey.listing.files)


def _count_rows(dataset: "Dataset") -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for split in (dataset.train, dataset.val, dataset.test):
        for label in split.labels.tolist():
            counts[split.name, dataset.classes[label] if label >= 0 else _UNLABELLED] += 1
    return counts


def _print_counts(
    counts: Counter[tuple[str, str]], classes: tuple[str, ...], *, missing: dict[tuple[str, str], int] | None = None
) -> None:
    unlabelled = [_UNLABELLED] if any(name == _UNLABELLED for _, name in counts) else []
    table = make_table("split", *classes, *unlabelled, "images", *(["missing files"] if missing else []))
    for split, named in _nested(counts).items():
        gone = [f"{sum(n for (where, _), n in missing.items() if where == split):,}"] if missing else []
        cells = (f"{named.get(name, 0):,}" for name in (*classes, *unlabelled))
        table.add_row(split, *cells, f"{sum(named.values()):,}", *gone)
    show_table(table)


def _nested(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Split to class to images, splits in their order."""
    nested: dict[str, dict[str, int]] = {split: {} for split in ("train", "val", "test")}
    for (split, name), n in sorted(counts.items()):
        nested[split][name] = n
    return nested


def _vww_values(survey: "VwwSurvey", out: Path | None) -> dict[str, Any]:
    return {
        "coco": survey.listing.location,
        "year": survey.year,
        "minival": str(survey.minival) if survey.minival else None,
        "splits": _nested(_count_files(survey)),
        "missing_files": _nested(Counter(survey.missing)),
        "published": [
            {
                "splits": part.splits,
                "published": part.published,
                "listed": part.listed,
                "present": part.present,
                "met": part.met,
            }
            for part in survey.parts
        ],
        "notes": list(survey.listing.notes),
        "list": str(out) if out else None,
    }
