"""A set of the library ``datasets`` read as a stream: its columns, and its images in order, undecoded."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.data.split import ImageFile, show
from edgeprune.errors import EdgepruneError, InputError, MissingExtraError

# What the images of a set that are not in its tables may be fetched by: never a file of this machine.
_REMOTE = ("hf://", "zip://", "tar://")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSet:
    """A set that can be read.

    Attributes:
        name: its id on the hub, or the name of its folder.
        folder: where it lies; None on the hub.
        version: its commit on the hub, or a digest of the folder's files.
        licence: as the set says, or an empty string.
        features: kind of each column: ``Image``, ``ClassLabel``, ``Value``, ...
        class_names: names of the classes of each column of kind ``ClassLabel``.
        splits: their names.
        arguments: what ``datasets.load_dataset_builder`` is called with.
        tables: whether single columns can be read.
    """

    name: str
    folder: Path | None
    version: str
    licence: str
    features: Mapping[str, str]
    class_names: Mapping[str, tuple[str, ...]]
    splits: tuple[str, ...]
    arguments: Mapping[str, Any]
    tables: bool

    def open_column(self, split: str, column: str) -> Any:
        """An ``IterableDataset`` of one column of a split; images in it stay as they are stored."""
        import datasets

        with reaching(self.name, self.folder):
            only = {"columns": [column]} if self.tables else {}
            stream = datasets.load_dataset_builder(**self.arguments, **only).as_streaming_dataset(split=split)
            for name, kind in self.features.items():
                if kind == "Image" and (name == column or not self.tables):
                    stream = stream.cast_column(name, datasets.Image(decode=False))
            return stream

    def read_column(self, split: str, column: str) -> Iterator[Any]:
        """The values of one column of a split."""
        with reaching(self.name, self.folder):
            for row in self.open_column(split, column):
                yield row[column]


class HubStream:
    """The images of a set, one after the other; see ``ImageStream``. Files are named ``split/row``.

    Args:
        hub: the set.
        column: of its images.
    """

    def __init__(self, hub: HubSet, column: str) -> None:
        self._hub, self._column = hub, column
        self._split = ""
        # The library's stream of that split, the rows it still has, and where it is to begin.
        self._stream: Any = None
        self._rows: Iterator[Mapping[str, Any]] = iter(())
        self._state: Any = None

    @property
    def version(self) -> str:
        """The set's."""
        return self._hub.version

    def read(self, files: Sequence[ImageFile]) -> Iterator[bytes | None]:
        """The bytes of the next images; None where a row holds none."""
        for file in files:
            split = file.name.rpartition("/")[0]
            if split != self._split or self._stream is None:
                self._begin(split)
            with reaching(self._hub.name, self._hub.folder):
                value = next(self._rows)[self._column]
                content = self._find_content(value)
            yield content

    def position(self) -> Any:
        """The split that is being read, and the library's own account of how far."""
        return [self._split, self._stream.state_dict() if self._stream is not None else None]

    def go_on(self, position: Any) -> None:
        """Read from there on; opened when the next image is asked for."""
        self._split, self._state = position
        self._stream = None

    def _begin(self, split: str) -> None:
        state = self._state if split == self._split else None
        self._split, self._state = split, None
        self._stream = self._hub.open_column(split, self._column)
        if state is not None:
            self._stream.load_state_dict(state)
        self._rows = iter(self._stream)

    def _find_content(self, value: Mapping[str, Any] | None) -> bytes | None:
        if value is None or value["path"] is None or value["bytes"] is not None:
            return None if value is None else value["bytes"]
        import fsspec

        path, folder = str(value["path"]), self._hub.folder
        if not (Path(path).resolve().is_relative_to(folder) if folder else path.startswith(_REMOTE)):
            return None
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
        return content


def open_hub(
    path: str, *, folder: Path | None, version: str, revision: str | None, config: str | None, work_dir: Path
) -> HubSet:
    """Ask a set what it holds.

    Args:
        path: its id on the hub, or its folder.
        folder: the folder; None on the hub.
        version: of the folder's files; on the hub the commit is asked for, and held on to from then on.
        revision: branch, tag or commit on the hub.
        config: name of a configuration.
        work_dir: for the library's locks.

    Raises:
        MissingExtraError: ``datasets`` is not installed.
        InputError: there is no such set, or it cannot be reached.
    """
    if importlib.util.find_spec("datasets") is None:
        raise MissingExtraError("edgeprune", "hf", "datasets")
    import datasets
    from huggingface_hub import HfApi

    datasets.disable_progress_bars()
    with reaching(path if folder is None else folder.name, folder):
        if folder is None:
            version = HfApi().dataset_info(path, revision=revision).sha or ""
        arguments = {
            "path": path,
            "name": config,
            "revision": version if folder is None else None,
            "cache_dir": str(work_dir),
        }
        builder = datasets.load_dataset_builder(**arguments)
        streams = builder.as_streaming_dataset()
        features = builder.info.features or next(iter(streams.values())).features or {}
        return HubSet(
            name=path if folder is None else folder.name,
            folder=folder,
            version=version,
            licence=builder.info.license or "",
            features={name: type(feature).__name__ for name, feature in features.items()},
            class_names={
                name: tuple(feature.names)
                for name, feature in features.items()
                if isinstance(feature, datasets.ClassLabel)
            },
            splits=tuple(map(str, streams)),
            arguments=arguments,
            tables=builder.name == "parquet",
        )


@contextmanager
def reaching(name: str, folder: Path | None) -> Iterator[None]:
    """Say what a set lacks in one sentence: the library raises nearly anything."""
    try:
        yield
    except EdgepruneError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if folder is not None:
            raise InputError(
                f"The folder {show(folder)} cannot be read as a data set: {reason}.",
                "Parquet files named after their split, like train-00000.parquet",
            ) from None
        raise InputError(
            f"The data set {name} of the Hugging Face hub cannot be read: {reason}.",
            "check its name and the network; or fetch it where there is one (hf download --repo-type dataset "
            f"{name} --local-dir FOLDER) and DATA=FOLDER",
        ) from None
