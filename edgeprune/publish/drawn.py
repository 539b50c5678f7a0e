"""Pictures drawn for golden vectors where photographs may not be passed on: figures in scenes, shapes, and noise.

Only sums and products of numpy, from seeds, so that the same pictures come out on every machine. More are drawn than
are needed: a network is asked about all, and those stay on which its answers differ most.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_COUNT = 48
_SKIN = ((0.95, 0.80, 0.69), (0.78, 0.57, 0.44), (0.55, 0.38, 0.28), (0.36, 0.24, 0.18))
_HAIR = ((0.10, 0.08, 0.07), (0.35, 0.22, 0.12), (0.80, 0.66, 0.40), (0.60, 0.60, 0.60))


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnImages:
    """Pictures, and what is in them.

    Attributes:
        images: uint8, shape (n, size, size, 3).
        figures: whether persons were drawn.
        names: ``drawn-07-street-figures``.
    """

    images: "np.ndarray"
    figures: tuple[bool, ...]
    names: tuple[str, ...]


def draw_images(image_size: int) -> DrawnImages:
    """48 pictures: streets, meadows, rooms, half of them with one to three figures, and shapes; equal on every call."""
    import numpy as np

    scenes = (_street, _meadow, _room, _shapes)
    images, figures, names = [], [], []
    for index in range(_COUNT):
        scene = scenes[index % len(scenes)]
        peopled = scene is not _shapes and index // len(scenes) % 2 == 0
        canvas = _Canvas(image_size, seed=index)
        scene(canvas)
        if peopled:
            for _ in range(1 + int(3 * canvas.draw() ** 2)):
                _figure(canvas)
        images.append(canvas.pixels())
        figures.append(peopled)
        names.append(f"drawn-{index:02}-{scene.__name__[1:]}{'-figures' * peopled}")
    return DrawnImages(images=np.stack(images), figures=tuple(figures), names=tuple(names))


def choose_drawn(outputs: "np.ndarray", count: int, *, largest: float) -> list[int]:
    """Pictures in turns from every class that a network answers, each as far from those before it as there is one.

    Args:
        outputs: what it gave, shape (n, classes).
        count: how many are wanted, at most n.
        largest: magnitude of its outputs on photographs. Pictures beyond it are left out while there are others:
            tolerances grow with the largest output, and wide ones would let a damaged file pass.
    """
    import numpy as np

    if not np.isfinite(outputs).all():
        return list(range(count))  # any will do: the gate on that fails, and names it
    magnitude = np.abs(outputs).max(axis=1)
    within = np.flatnonzero(magnitude <= max(largest, float(np.sort(magnitude)[count - 1])))
    return [int(within[place]) for place in _far_apart(outputs[within], count)]


def _far_apart(outputs: "np.ndarray", count: int) -> list[int]:
    import numpy as np

    values, answers = outputs.astype(np.float64), outputs.argmax(axis=1)
    distance = np.square(values - values.mean(axis=0)).sum(axis=1)
    chosen: list[int] = []
    while len(chosen) < count:
        classes = [answer for answer in np.unique(answers) if set(np.flatnonzero(answers == answer)) - set(chosen)]
        wanted = classes[len(chosen) % len(classes)]
        free = [index for index in np.flatnonzero(answers == wanted) if index not in chosen]
        chosen.append(int(max(free, key=lambda index: distance[index])))
        nearest = [np.square(values - values[index]).sum(axis=1) for index in chosen]
        distance = np.minimum.reduce(nearest)
    return chosen


class _Canvas:
    """Colours in [0, 1]; places and lengths in units of the picture's side, from the upper left corner."""

    def __init__(self, size: int, *, seed: int) -> None:
        import numpy as np

        centres = (np.arange(size) + 0.5) / size
        self.x, self.y = np.meshgrid(centres, centres)
        self.colours = np.zeros((size, size, 3))
        self._generator = np.random.default_rng(seed)

    def draw(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(self._generator.random())

    def colour(self) -> tuple[float, float, float]:
        grey, strength = self.draw(0.1, 0.9), self.draw(0.2, 0.7)
        return tuple(grey + strength * (self.draw() - grey) for _ in range(3))  # type: ignore[return-value]

    def pick(self, choices: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
        return choices[int(self.draw(0, len(choices)))]

    def fill(self, colour: Sequence[float], inside: "np.ndarray") -> None:
        """Lay a colour on; ``inside`` is a distance in sides, positive within, so that edges can be smooth."""
        cover = (inside * len(self.x) + 0.5).clip(0, 1)[:, :, None]
        self.colours += cover * (colour - self.colours)

    def box(self, colour: Sequence[float], left: float, top: float, right: float, bottom: float) -> None:
        import numpy as np

        sides = (self.x - left, right - self.x, self.y - top, bottom - self.y)
        self.fill(colour, np.minimum.reduce(sides))

    def stroke(
        self, colour: Sequence[float], start: tuple[float, float], end: tuple[float, float], radius: float
    ) -> None:
        """A line with round ends; a disc where both ends are one."""
        across, down = end[0] - start[0], end[1] - start[1]
        length = across * across + down * down
        along = ((self.x - start[0]) * across + (self.y - start[1]) * down) / length if length else 0 * self.x
        along = along.clip(0, 1)
        distance = ((self.x - start[0] - along * across) ** 2 + (self.y - start[1] - along * down) ** 2) ** 0.5
        self.fill(colour, radius - distance)

    def fade(self, upper: Sequence[float], lower: Sequence[float], top: float, bottom: float) -> None:
        """A gradient from edge to edge between two heights."""
        share = ((self.y - top) / (bottom - top)).clip(0, 1)[:, :, None]
        colours = (1 - share) * upper + share * lower
        inside = ((self.y >= top) & (self.y < bottom))[:, :, None]
        self.colours += inside * (colours - self.colours)

    def pixels(self) -> "np.ndarray":
        """With light from one side, and noise, as a small camera gives them."""
        import numpy as np

        slope = self.draw(-0.25, 0.25) * (self.x - 0.5) + self.draw(-0.15, 0.15) * (self.y - 0.5)
        noise = self._generator.random(self.colours.shape) - 0.5
        lit = self.colours * (1 + slope[:, :, None]) + self.draw(0.02, 0.12) * noise
        pixels: np.ndarray = (lit * 255 + 0.5).clip(0, 255).astype(np.uint8)
        return pixels


def _street(canvas: _Canvas) -> None:
    horizon = canvas.draw(0.4, 0.65)
    canvas.fade((0.45, 0.62, 0.85), (0.85, 0.88, 0.92), 0, horizon)
    left = -0.1
    while left < 1:
        width, top, wall = canvas.draw(0.15, 0.4), canvas.draw(0.02, 0.3), canvas.colour()
        canvas.box(wall, left, top, left + width, horizon + 0.05)
        for row in range(3):
            for column in range(2):
                x, y = left + width * (0.2 + 0.4 * column), top + 0.05 + 0.11 * row
                canvas.box((0.15, 0.18, 0.25), x, y, x + 0.05, y + 0.06)
        left += width
    canvas.fade((0.35, 0.35, 0.37), (0.5, 0.5, 0.5), horizon + 0.05, 1.01)
    canvas.box((0.9, 0.9, 0.8), 0.47, 0.8, 0.53, 1.0)


def _meadow(canvas: _Canvas) -> None:
    horizon = canvas.draw(0.35, 0.6)
    canvas.fade((0.3, 0.55, 0.9), (0.8, 0.9, 1.0), 0, horizon)
    sun = (canvas.draw(), canvas.draw(0.05, 0.2))
    canvas.stroke((1.0, 0.95, 0.6), sun, sun, 0.07)
    canvas.fade((0.35, 0.55, 0.2), (0.2, 0.4, 0.12), horizon, 1.01)
    for _ in range(1 + int(canvas.draw(0, 4))):
        x, foot, height = canvas.draw(), canvas.draw(horizon, 0.9), canvas.draw(0.2, 0.5)
        canvas.stroke((0.35, 0.24, 0.15), (x, foot), (x, foot - height), 0.02)
        crown = (x, foot - height)
        canvas.stroke((canvas.draw(0.1, 0.6), canvas.draw(0.3, 0.6), 0.1), crown, crown, height * 0.4)


def _room(canvas: _Canvas) -> None:
    floor = canvas.draw(0.6, 0.8)
    canvas.fade(canvas.colour(), canvas.colour(), 0, floor)
    canvas.fade((0.5, 0.36, 0.22), (0.62, 0.46, 0.3), floor, 1.01)
    x, y = canvas.draw(0.05, 0.6), canvas.draw(0.05, 0.25)
    canvas.box((0.95, 0.95, 0.95), x - 0.02, y - 0.02, x + 0.32, y + 0.27)
    canvas.box((0.65, 0.8, 0.95), x, y, x + 0.3, y + 0.25)
    table, top, wood = canvas.draw(0, 0.6), canvas.draw(0.55, 0.75), canvas.colour()
    canvas.box(wood, table, top, table + 0.4, top + 0.04)
    for leg in (0.02, 0.34):
        canvas.box(wood, table + leg, top, table + leg + 0.03, 0.97)


def _shapes(canvas: _Canvas) -> None:
    canvas.fade(canvas.colour(), canvas.colour(), 0, 1.01)
    for _ in range(2 + int(canvas.draw(0, 8))):
        start, size = (canvas.draw(), canvas.draw()), canvas.draw(0.03, 0.2)
        if canvas.draw() < 0.5:
            canvas.box(canvas.colour(), start[0], start[1], start[0] + 2 * size, start[1] + size)
        else:
            canvas.stroke(canvas.colour(), start, (canvas.draw(), canvas.draw()), size / 2)


def _figure(canvas: _Canvas) -> None:
    """A person who stands or walks: legs, arms, trunk, neck, head and hair."""
    height, x = canvas.draw(0.35, 0.95), canvas.draw(0.2, 0.8)
    foot = canvas.draw(max(0.7, height), 1.02)

    def at(across: float, up: float) -> tuple[float, float]:
        return x + across * height, foot - up * height

    skin, shirt, trousers = canvas.pick(_SKIN), canvas.colour(), canvas.colour()
    stride, swing = canvas.draw(0.02, 0.12), canvas.draw(-0.12, 0.2)
    limb: Callable[..., None] = canvas.stroke
    for side in (-1, 1):
        limb(trousers, at(side * 0.05, 0.48), at(side * stride, 0.04), 0.045 * height)
        limb((0.1, 0.1, 0.12), at(side * stride, 0.02), at(side * stride + 0.04, 0.02), 0.025 * height)
        elbow = at(side * 0.17, 0.62 + side * swing / 4)
        limb(shirt, at(side * 0.1, 0.79), elbow, 0.034 * height)
        limb(skin, elbow, at(side * (0.15 + swing / 3), 0.48 + side * swing), 0.026 * height)
    limb(shirt, at(0, 0.54), at(0, 0.76), 0.095 * height)
    limb(skin, at(0, 0.82), at(0, 0.87), 0.03 * height)
    limb(canvas.pick(_HAIR), at(0, 0.935), at(0, 0.94), 0.068 * height)
    limb(skin, at(0.005, 0.905), at(0.005, 0.915), 0.056 * height)
