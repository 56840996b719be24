"""Networks, as plain torch modules."""

from resnet_sweep.models.resnet import ResNet

__all__ = ["ResNet"]
