"""The recipe as a value: all of its sections, and the digests of them."""

import re
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, model_validator

from edgeprune.files import digest_json
from edgeprune.recipe.file_sections import ExportSection, QuantiseSection, VerifySection
from edgeprune.recipe.pruning_sections import (
    ActivationsSection,
    BudgetSection,
    PruneSection,
    RecalibrateSection,
    RecoverSection,
)
from edgeprune.recipe.section import Section
from edgeprune.recipe.training_sections import AugmentSection, DataSection, ModelSection, TeacherSection, TrainSection
from edgeprune.recipe.yaml_dialect import StrictDumper


class Recipe(Section):
    """Everything a run does. See the sections for units and defaults."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
    goal: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataSection = DataSection()
    augment: AugmentSection = AugmentSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    teacher: TeacherSection = TeacherSection()
    prune: PruneSection = PruneSection()
    budget: BudgetSection = BudgetSection()
    activations: ActivationsSection = ActivationsSection()
    recalibrate: RecalibrateSection = RecalibrateSection()
    recover: RecoverSection = RecoverSection()
    quantise: QuantiseSection = QuantiseSection()
    export: ExportSection = ExportSection()
    verify: VerifySection = VerifySection()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.recover.cache_teacher and not self.augment.only_orients:
            raise ValueError("recover.cache_teacher needs an augmentation that only flips and turns")
        for wants, key in ((self.train.alpha, "train.alpha"), (self.recover.teacher == "file", "recover.teacher")):
            if wants and self.teacher.path is None:
                raise ValueError(f"{key} asks for the teacher's file, and teacher.path names none")
        if re.search(r"-(s\d\d\w*|b-[0-9a-f]{8}[\w-]*|dense|compact|sensitivity|latency)$", self.name):
            raise ValueError(f"name {self.name!r} ends like a level (-s60, -dense), whose folder it would share")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe as values: comments, key order and folders of this machine do not count."""
        values = self.without_local_paths()
        parts = {name: getattr(values, name) for name in type(self).model_fields}
        off = {"teacher": TeacherSection()}  # a later section, as the later keys are
        return digest_json(
            {
                name: part.counted() if isinstance(part, Section) else part
                for name, part in parts.items()
                if part != off.get(name)
            }
        )

    def part_digest(self, *sections: str) -> str:
        """SHA-256 of the seed and the named sections: what a step that reads only these depends on."""
        return digest_json({"seed": self.seed} | {name: getattr(self, name).counted() for name in sections})

    def without_local_paths(self) -> Self:
        """The recipe as strangers get it: where images and weights lay on this machine is nobody's business."""
        data = self.data.model_copy(update={"path": None})
        model = self.model.model_copy(update={"weights": Path(self.model.weights).name, "baseline": None})
        recover = self.recover.model_copy(update={"teacher": Path(self.recover.teacher).name})
        path = self.teacher.path
        teacher = self.teacher.model_copy(update={"path": Path(path).name if path else None})
        device = Path(self.export.device).stem if self.export.device else None
        export = self.export.model_copy(update={"device": device})
        return self.model_copy(
            update={"data": data, "model": model, "teacher": teacher, "recover": recover, "export": export}
        )

    def to_yaml(self) -> str:
        """The recipe with every default written out, as it is saved beside what it made."""
        return yaml.dump(self.model_dump(mode="json"), Dumper=StrictDumper, sort_keys=False, allow_unicode=True)
