"""Image classifiers, as torch modules."""

from resnet_sweep.models.resnet import ResNet
from resnet_sweep.models.zoo import timm_classifier, torchvision_classifier

__all__ = ["ResNet", "timm_classifier", "torchvision_classifier"]
