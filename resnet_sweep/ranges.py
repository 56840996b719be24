"""Types of settings with bounds, for the parameters of several classes."""

from typing import Annotated

from annotated_types import Ge, Le

Count = Annotated[int, Ge(1)]
Probability = Annotated[float, Ge(0), Le(1)]
