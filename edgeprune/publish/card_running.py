"""The part of a bundle's card that says what each file is, and how to run it; the snippets work inside the folder."""

from edgeprune.formats import RESIZE_RULE
from edgeprune.publish.facts import BundleFacts, FileFacts

_ONNX = """\
import json, pathlib, numpy, onnxruntime
rule = json.loads(pathlib.Path("preprocess.json").read_text(encoding="utf-8"))
size, labels = rule["image_size"], pathlib.Path("labels.txt").read_text(encoding="utf-8").split("\\n")
pixels = numpy.fromfile("golden/00.rgb", numpy.uint8).reshape(size, size, 3)
image = ((pixels * rule["scale"] - rule["mean"]) / rule["std"]).astype("float32").transpose(2, 0, 1)[None]
session = onnxruntime.InferenceSession("{path}", providers=["CPUExecutionProvider"])
logits = session.run(["logits"], {{"input": image}})[0][0]
probability = numpy.exp(logits - logits.max()) / numpy.exp(logits - logits.max()).sum()
print(labels[probability.argmax()], f"{{probability.max():.4f}}")"""

_LITERT = """\
import json, pathlib, numpy
from ai_edge_litert.interpreter import Interpreter
rule = json.loads(pathlib.Path("preprocess.json").read_text(encoding="utf-8"))
size, labels = rule["image_size"], pathlib.Path("labels.txt").read_text(encoding="utf-8").split("\\n")
file = next(file for file in rule["files"] if file["path"] == "{path}")
pixels = numpy.fromfile("golden/00.rgb", numpy.uint8).reshape(size, size, 3)
{rotated}{image}
model = Interpreter(model_path="{path}")
model.allocate_tensors()
model.set_tensor(model.get_input_details()[0]["index"], image[None])
model.invoke()
stored = model.get_tensor(model.get_output_details()[0]["index"])[0]
{answer}"""
_ROTATED = "pixels = pixels[::-1, ::-1]  # this file reads the image rotated by 180 degrees\n"
_FLOAT_IMAGE = 'image = ((pixels * rule["scale"] - rule["mean"]) / rule["std"]).astype("float32")'
_INT8_IMAGE = """\
whole = file["integer"]
image = (pixels * numpy.int32(whole["multiplier"]) + numpy.int32(whole["offset"])) >> whole["shift"]
image = image.clip(-128, 127).astype("int8")"""
_FLOAT_ANSWER = "print(labels[stored.argmax()], stored)"
_INT8_ANSWER = """\
rule = file["output"]["quantisation"]
print(labels[stored.argmax()], rule["scale"] * (stored.astype(int) - rule["zero_point"]))"""


def describe_running(facts: BundleFacts, *, c_source: bool) -> str:
    """The section ``Run it``: a table of files, a snippet for each kind of runtime, and the way to firmware."""
    parts = ["## Run it", "\n".join(_file_table(facts))]
    if facts.headline.path.endswith(".onnx"):
        parts.append(_onnx(facts))
    lite = facts.embedded or next((file for file in facts.files if file.path.endswith(".tflite")), None)
    if lite is not None:
        parts.append(_litert(lite))
    rotated = [f"`{file.path}`" for file in facts.files if file.rotated]
    if rotated:
        parts.append(
            f"**Rotation.** {', '.join(rotated)} must be fed the image rotated by 180 degrees: last row first, and "
            "each row from right to left. No metadata standard can say so, and a model that is fed upright images "
            "answers without an error, and worse. `preprocess.json` has `rotate_180` for each file; the images "
            "`golden/NN.rgb` are upright, the raw inputs below them are as each file wants them."
        )
    parts.append(_device(facts, c_source=c_source))
    return "\n\n".join(parts)


def _file_table(facts: BundleFacts) -> list[str]:
    return [
        "| file | input | proved in | bytes |",
        "|---|---|---|---:|",
        *(
            f"| `{file.path}` | {file.layout}{', rotated by 180 degrees' if file.rotated else ''} | {file.runtime} | "
            f"{file.bytes:,} |"
            for file in facts.files
        ),
    ]


def _onnx(facts: BundleFacts) -> str:
    batch = "any number of images" if facts.dynamic_batch else "one image"
    return f"""\
In this folder, with `pip install numpy onnxruntime`:

```python
{_ONNX.format(path=facts.headline.path)}
```

It prints the class of the first golden image and its softmax probability. A call takes {batch}: input `input`, \
float32, channels first, RGB; output `logits`, one value a class. For a photograph of your own, resize first \
({RESIZE_RULE}), then do the same; `preprocess.json` says all of it in machine-readable form, file by file."""


def _litert(file: FileFacts) -> str:
    snippet = _LITERT.format(
        path=file.path,
        rotated=_ROTATED if file.rotated else "",
        image=_INT8_IMAGE if file.input else _FLOAT_IMAGE,
        answer=_INT8_ANSWER if file.output else _FLOAT_ANSWER,
    )
    reads = "It turns pixels into int8 by the integer arithmetic of the firmware" if file.input else "It"
    return f"""\
`{file.path}` with `pip install numpy ai-edge-litert`:

```python
{snippet}
```

{reads}{" and" if file.input else ""} prints the class of the first golden image and its logits. The tensors have no \
names; there is one input and one output, channels last, RGB."""


def _device(facts: BundleFacts, *, c_source: bool) -> str:
    folder = (
        " `c/` is that file as C++ source with the operator list, the arena's size, the preprocessing and a self-test; "
        "`c/README.md` says how to build it."
        if c_source
        else ""
    )
    vela = " `vela/` is the file compiled for the Ethos-U." if facts.npu is not None else ""
    firmware = (
        f"In firmware: `{facts.embedded.path}` is the file for TFLite Micro." + folder + vela + "\n\n"
        if facts.embedded is not None
        else ""
    )
    kind = "drawn" if facts.drawn else "real"
    return f"""\
{firmware}On any device: `golden/NN.rgb` are {kind} inputs as raw bytes (height, width, RGB; resized, not normalised), \
and `golden/golden.json` has the outputs that each file must give for them, with its tolerance; for the first of them \
each file's exact input and output lie beside it as raw bytes. `size_report.md` shows where flash, RAM and time go."""
