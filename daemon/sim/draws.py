"""Numbers drawn by chance, always from a seeded generator, and the numbers that contents go by."""

from dataclasses import dataclass
from math import log, sqrt
from typing import Literal

import numpy as np

Popularity = Literal["measured", "uniform", "zipf"]
"""How often each of many items is asked for: spread as the paper's Table 1 measured it, all alike, or by Zipf's law."""

ZIPF_EXPONENT = 1.1
"""The paper's."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths with a long tail, never negative: log-normal, with these moments before the bounds clip it."""

    mean: float
    std: float
    least: int = 1
    most: int = 2**31

    def draw(self, rng: np.random.Generator) -> int:
        """One length."""
        return int(min(max(round(spread(rng, self.mean, self.std)), self.least), self.most))


def spread(rng: np.random.Generator, mean: float, std: float) -> float:
    """A positive number from a log-normal distribution of this mean and standard deviation."""
    variance = log(1 + (std / mean) ** 2)
    return float(rng.lognormal(log(mean) - variance / 2, sqrt(variance)))


class Items:
    """Chooses among `n_items`, each of its own popularity."""

    def __init__(self, n_items: int, popularity: Popularity, variation: float, rng: np.random.Generator) -> None:
        """`variation` is the standard deviation of an item's measured popularity over its mean."""
        match popularity:
            case "measured":
                weights = np.array([spread(rng, 1.0, variation) for _ in range(n_items)])
            case "uniform":
                weights = np.ones(n_items)
            case "zipf":
                weights = 1.0 / np.arange(1, n_items + 1) ** ZIPF_EXPONENT
        self._up_to = np.cumsum(weights) / weights.sum()
        self._up_to[-1] = 1.0

    def draw(self, rng: np.random.Generator) -> int:
        """The number of one item."""
        return int(np.searchsorted(self._up_to, rng.random(), side="right"))


def stream(seed: int, *names: int) -> np.random.Generator:
    """A generator of its own for each purpose, so that what one draws does not depend on when another draws."""
    return np.random.default_rng([seed, *names])


SHARED, ITEM, QUESTION, ANSWER, RESULT = range(5)
"""Kinds of content."""


def content(kind: int, number: int, part: int = 0) -> int:
    """The number of a content: equal for equal arguments only, and below 2^63."""
    assert max(number >> 36, part >> 20) == 0, "contents would be mistaken for each other"
    return kind << 56 | number << 20 | part
