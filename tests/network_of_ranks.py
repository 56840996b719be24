"""A network without BatchNorm that can kill its process in the middle of training."""

import os
import signal

from torch import Tensor, nn


class Network(nn.Sequential):
    """A small convolutional network with a fault in rank 1 at its tenth training batch.

    $FAULT selects the fault: `killed` kills the process of rank 1, once; `terminated` sends SIGTERM
    to its torchrun.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 7 * 7, num_classes),
        )
        self.batches = 0

    def forward(self, images: Tensor) -> Tensor:
        if self.training and images.device.type != "meta":
            self.batches += 1
            if self.batches == 10 and os.environ.get("RANK") == "1":
                self.inject_fault()
        return super().forward(images)

    def inject_fault(self) -> None:
        is_first_start = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if os.environ.get("FAULT") == "killed" and is_first_start:
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("FAULT") == "terminated":
            os.kill(os.getppid(), signal.SIGTERM)
