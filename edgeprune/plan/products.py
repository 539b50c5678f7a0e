"""Sums of products of two channel counts: the form of every cost but peak memory."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Product:
    """``factor * (one @ x) * (other @ x)``, see ``operators`` for ``x``.

    Attributes:
        layer: module that it is counted for.
        kind: of operator, or what of the layer it is.
        factor: what stays the same: kernel elements, pixels, bytes.
        one, other: vectors, shape (1 + groups,).
    """

    layer: str
    kind: str
    factor: float
    one: np.ndarray
    other: np.ndarray

    def value(self, x: np.ndarray) -> float:
        """For one plan, shape (1 + groups,)."""
        return self.factor * float(self.one @ x) * float(self.other @ x)


def add_up(products: Iterable[Product], places: int) -> np.ndarray:
    """The matrix of a sum; symmetric, shape (places, places)."""
    products = list(products)
    if not products:
        return np.zeros((places, places))
    left = np.array([product.factor * product.one for product in products])
    right = np.array([product.other for product in products])
    matrix = left.T @ right
    symmetric: np.ndarray = (matrix + matrix.T) / 2
    return symmetric


def largest_layer(products: Iterable[Product], x: np.ndarray) -> str:
    """The layer with the largest part of a sum."""
    by_layer: dict[str, float] = {}
    for product in products:
        if product.layer:
            by_layer[product.layer] = by_layer.get(product.layer, 0.0) + product.value(x)
    return max(by_layer, key=lambda layer: by_layer[layer])
