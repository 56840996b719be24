"""The step of a training as a CUDA graph: recorded once, then replayed by a single call.

A small network's step is hundreds of kernels, each of which takes the host longer to start than
the device to carry out. What is recorded is kernels with the addresses that they read and write:
whatever changes from step to step has to be at a fixed place in the device's memory, and nothing
can be read by the host on the way.

Random numbers stay what they are without a recording. A generator's seed and offset are on the
host; each replay puts both where the recorded kernels read them, so that seeding a generator
before a replay does to it what it does to a step that isn't recorded.
"""

import time
from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor

# Steps of each shape before it is recorded: cuDNN chooses its algorithms, optimizers make their
# state, and torch compiles. They are steps of the training like any other.
FIRST_STEPS = 3

Step = Callable[[Tensor, Tensor], None]


class Recorder(Protocol):
    """What can record a step."""

    def carry_out(self, step: Callable[[], None]) -> None:
        """Make a step without recording it."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record a step without making it; what is returned makes it.

        Raises:
            RecordingError: it does what can't be recorded.
        """


class RecordingError(RuntimeError):
    """A step does what can't be recorded."""


class CudaRecorder:
    """Records CUDA graphs.

    Args:
        device: of the training.
        generator: that its steps draw from, beside the device's own.
    """

    def __init__(self, device: torch.device, generator: torch.Generator) -> None:
        self.device, self.generator = device, generator
        self.stream = torch.cuda.Stream(device)
        # Graphs are replayed one after another, so they can share the memory of what is between.
        self.pool = torch.cuda.graph_pool_handle()

    def carry_out(self, step: Callable[[], None]) -> None:
        # On the stream of the recording, as that finds there what was made in these steps.
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            step()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        try:
            # Other threads, as of a logger, may go on using the device meanwhile.
            with torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                step()
        except RuntimeError as error:
            # CUDA ends a recording that failed with an error of its own, which doesn't say why.
            cause = error
            while cause.__context__ is not None:
                cause = cause.__context__
            raise RecordingError(
                "the training step can't be recorded as a CUDA graph "
                f"({' '.join(str(cause).split())}): go on with trainer.compile=none"
            ) from error
        return graph.replay


class StepGraphs:
    """The recordings of a training step, one for each shape of its batches.

    Args:
        recorder: that makes them.

    Attributes:
        seconds: that the first steps and the recordings took, compiling included.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.seconds = 0.0
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, step: Step, images: Tensor, labels: Tensor, size: int | None) -> None:
        """Make a step, by a replay as soon as it is recorded.

        Args:
            step: does with images and labels what depends, beside them, on `size` and on the
                device's memory alone, and leaves what comes of it there.
            images, labels: of any shape.
            size: of the images that the model is to see.
        """
        key = (size, images.shape, images.dtype, labels.shape, labels.dtype)
        recording = self._recordings.get(key)
        if recording is None:
            recording = self._recordings[key] = _Recording(images, labels)
        recording.take(images, labels)
        if recording.replay is None:
            begun = time.monotonic()
            recording.prepare(step, self.recorder)
            self.seconds += time.monotonic() - begun
        if recording.replay is not None:
            recording.replay()


class _Recording:
    """A step with batches of one shape, and the place where it finds them."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = torch.empty_like(images), torch.empty_like(labels)
        self.made = 0
        self.replay: Callable[[], None] | None = None

    def take(self, images: Tensor, labels: Tensor) -> None:
        self.images.copy_(images)
        self.labels.copy_(labels)

    def prepare(self, step: Step, recorder: Recorder) -> None:
        """Make one of the first steps, or record the step."""
        if self.made < FIRST_STEPS:
            recorder.carry_out(lambda: step(self.images, self.labels))
            self.made += 1
        else:
            self.replay = recorder.record(lambda: step(self.images, self.labels))
