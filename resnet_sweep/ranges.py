"""Types of settings that several classes have."""

from typing import Annotated

from annotated_types import Ge, Le

# A number of things, of which there is at least one.
Count = Annotated[int, Ge(1)]
Probability = Annotated[float, Ge(0), Le(1)]
