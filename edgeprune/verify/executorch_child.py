"""The process in which ExecuTorch's runtime runs: ``python executorch_child.py MODEL INPUTS OUTPUTS``.

Its Python binding takes torch tensors, and a damaged file can take the process down with it. Run as a file, so that
nothing of edgeprune but this is imported, and nothing of edgeprune imports this: the one place here that needs torch.
"""

import json
import sys
from pathlib import Path

_PREFIX = "get_"


def main(model: str, inputs: str, outputs: str) -> None:
    """Run every image of a .npy file, write the outputs to another; the file's properties beside that as JSON."""
    import numpy as np
    import torch
    from executorch.runtime import Runtime

    torch.set_num_threads(1)
    program = Runtime.get().load_program(Path(model).read_bytes())
    texts = {}
    for name in sorted(program.method_names):
        if name.startswith(_PREFIX):
            (value,) = program.load_method(name).execute([])
            if isinstance(value, str):
                texts[name.removeprefix(_PREFIX)] = value
    forward = program.load_method("forward")
    found = []
    for image in np.load(inputs, allow_pickle=False):
        (logits,) = forward.execute([torch.from_numpy(image[None])])
        # The next call writes into the same memory.
        found.append(logits.numpy().reshape(-1).copy())
    np.save(outputs, np.stack(found), allow_pickle=False)
    Path(outputs).with_suffix(".json").write_text(json.dumps(texts), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
