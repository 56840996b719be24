"""What happens to a training batch: batched tensor operations on the device.

An operation is called with

- images: (B, 3, H, W), uint8, or floats of the same scale, 0..255;
- labels: (B,), int64, or once images were mixed (B, classes), float32, the share of each class;
- a generator on the images' device, from which it draws for each image by itself;

and returns images and labels, each in either form: what mixes returns shares, and whatever comes
out between two whole numbers is returned as float32. What was handed in stays as it was.

One that reads from the device's memory, or does other work according to what it drew, says so by a
class attribute `recordable = False`, and is carried out before the recorded part of a step.

Its constructor may have parameters that the program supplies and that aren't settings:
`num_classes`, and `mean`, per channel, of the data's images scaled to 0..1.
"""

from resnet_sweep.augmentation.color import ColorJitter
from resnet_sweep.augmentation.crop import RandomCrop
from resnet_sweep.augmentation.cutmix import CutMix
from resnet_sweep.augmentation.cutmix_or_mixup import CutMixOrMixUp
from resnet_sweep.augmentation.cutout import Cutout
from resnet_sweep.augmentation.erase import RandomErasing
from resnet_sweep.augmentation.flip import RandomHorizontalFlip
from resnet_sweep.augmentation.mixup import MixUp
from resnet_sweep.augmentation.trivial import TrivialAugment

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
