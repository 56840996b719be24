"""Augmentation of training batches by tensor operations on the device.

An operation is called with

- images: (B, 3, H, W), uint8, or floats of the same scale, 0..255;
- labels: (B,), int64, or (B, classes), float32, the share of each class, if images were mixed;
- a generator on the images' device, from which it draws separately for each image;

and returns images and labels, each in either form. It doesn't change its arguments.

Its constructor may have parameters that aren't settings and that the program supplies:
`num_classes`, and `mean`, per channel, of the data's images scaled to 0..1.
"""

from resnet_sweep.augmentation.color import ColorJitter
from resnet_sweep.augmentation.crop_flip import RandomCrop, RandomHorizontalFlip
from resnet_sweep.augmentation.erasing import Cutout, RandomErasing
from resnet_sweep.augmentation.mixing import CutMix, CutMixOrMixUp, MixUp
from resnet_sweep.augmentation.trivial_augment import TrivialAugment

__all__ = [
    "ColorJitter",
    "CutMix",
    "CutMixOrMixUp",
    "Cutout",
    "MixUp",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "TrivialAugment",
]
