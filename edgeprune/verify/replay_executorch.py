"""Ask a bundle's ExecuTorch programs again, in ExecuTorch's own runtime. Needs the extra ``executorch``."""

from edgeprune.errors import InputError, MissingExtraError
from edgeprune.formats import parse_metadata
from edgeprune.results import Gate
from edgeprune.verify.bundle_texts import read_listed
from edgeprune.verify.executorch_runtime import ask_executorch_file
from edgeprune.verify.question import Question, compare_golden, compare_metadata, metadata_gate, refused


def ask_executorch(question: Question) -> list[Gate]:
    """Gates ``metadata:<path>`` and ``golden:<path>``; none where the extra is not installed."""
    name = question.name
    try:
        answer = ask_executorch_file(read_listed(question.path), question.inputs)
        metadata = parse_metadata(answer.properties, origin=name)
    except MissingExtraError:
        return []
    except InputError as error:
        return [refused(name, error)]
    return [
        metadata_gate(name, list(compare_metadata(metadata, question))),
        compare_golden(f"golden:{name}", answer.outputs, question.golden),
    ]
