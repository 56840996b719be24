"""The values that a setting may take."""

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """An interval of finite numbers, for use as `Annotated[float, Range(minimum=0, below=1)]`.

    A bound left at None is open: `minimum` and `maximum` belong to the interval, `above` and
    `below` don't.
    """

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None

    def __contains__(self, number: float) -> bool:
        # An integer beyond the floats is finite all the same, so isfinite must not see it.
        return (
            (isinstance(number, int) or math.isfinite(number))
            and (self.minimum is None or number >= self.minimum)
            and (self.above is None or number > self.above)
            and (self.maximum is None or number <= self.maximum)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        bounds = [
            (self.minimum, "at least"),
            (self.above, "above"),
            (self.maximum, "at most"),
            (self.below, "below"),
        ]
        return " and ".join(f"{word} {bound}" for bound, word in bounds if bound is not None)


# How many of something there are to be.
Count = Annotated[int, Range(minimum=1)]
