"""Types of settings that several classes have."""

from typing import Annotated

from annotated_types import Ge

# A number of things, of which there is at least one.
Count = Annotated[int, Ge(1)]
