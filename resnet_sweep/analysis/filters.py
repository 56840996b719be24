"""The filters of a network's first convolution."""

import math

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from resnet_sweep.analysis.layers import NotApplicableError
from resnet_sweep.analysis.sheet import Sheet

COLUMNS = 8
SIZE = 0.8


def first_filters(model: nn.Module) -> np.ndarray:
    """The weights of the first convolution, (filters, 3, height, width), float32.

    Raises:
        NotApplicableError: there is none, or it doesn't work on colours.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().float().cpu().numpy()
            if weight.shape[1] != 3:
                raise NotApplicableError(
                    f"the first convolution has {weight.shape[1]} input channels, not 3 colours"
                )
            return weight
    raise NotApplicableError("the model has no convolution")


def draw_filters(filters: np.ndarray, title: str) -> Figure:
    """The filters as pictures: red, green and blue are the weights of these, gray is zero."""
    largest = float(np.abs(filters).max())
    colors = 0.5 + filters.transpose(0, 2, 3, 1) / (2 * largest or 1)
    columns = min(COLUMNS, len(filters))
    rows = math.ceil(len(filters) / columns)
    step = SIZE + 0.25
    width = max(0.4 + step * columns, 6)
    left = (width - step * columns + 0.25) / 2
    sheet = Sheet(width, 0.9 + step * rows, title)
    sheet.text(
        width / 2, 0.5, f"channel by channel from {-largest:.2f} (dark) to {largest:.2f} (bright)"
    )
    for index, filter_ in enumerate(colors):
        row, column = divmod(index, columns)
        x, y = left + step * column, 0.95 + step * row
        sheet.picture(x, y, SIZE, filter_)
        sheet.text(x + SIZE / 2, y - 0.1, str(index))
    return sheet.figure
