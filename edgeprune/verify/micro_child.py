"""The process in which TFLite Micro runs: ``python micro_child.py MODEL INPUTS OUTPUTS [ARENA_BYTES]``.

A damaged file can take the interpreter down with it, and its recording allocator prints to file descriptor 2. The
parent reads both. Run as a file, so that nothing of edgeprune but this is imported.
"""

import sys
from pathlib import Path


def main(model: str, inputs: str, outputs: str, arena_bytes: str = "") -> None:
    """Run every input of a .npy file and write the outputs to another; print the arena's sizes to descriptor 2."""
    import numpy as np
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(
        Path(model).read_bytes(), arena_size=int(arena_bytes) if arena_bytes else None
    )
    images = np.load(inputs, allow_pickle=False)
    found = []
    for index in range(len(images)):
        interpreter.set_input(images[index : index + 1], 0)
        interpreter.invoke()
        found.append(interpreter.get_output(0).reshape(-1).copy())
    interpreter.print_allocations()
    np.save(outputs, np.stack(found), allow_pickle=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
