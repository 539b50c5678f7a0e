"""A bundle on photographs of one's own: what it sees, as it would on the device. Needs numpy, Pillow and one runtime.

- ``open_demo`` chooses file, runtime and threshold of a bundle and gives a ``Demo``.
- ``Demo.look_at`` gives an ``Answer`` for one photograph.
- ``list_photos`` and ``follow_folder`` say which photographs there are, and which arrive.
- ``annotate_photo`` draws an answer into a copy.

No torch, and nothing heavy before a function needs it.
"""

from edgeprune.demo.photos import annotate_photo, follow_folder, list_photos
from edgeprune.demo.runners import RUNTIMES, Runner
from edgeprune.demo.seeing import Answer, Demo, open_demo

__all__ = [
    "RUNTIMES",
    "Answer",
    "Demo",
    "Runner",
    "annotate_photo",
    "follow_folder",
    "list_photos",
    "open_demo",
]
