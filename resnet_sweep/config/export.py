"""Export a trained network as a file for other programs, and check the file."""

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict
from io import BytesIO, StringIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from resnet_sweep.config.build import model_arguments
from resnet_sweep.config.restore import TrainedNetwork, load_network
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.files import write_atomically

# The names of the input and of the output of a program.
INPUT, OUTPUT = "images", "logits"
# The packages that write, convert and run an ONNX file.
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Each file is checked with batches of these sizes, because a program may depend on the size.
CHECKED_BATCHES = (1, 5)
# The largest accepted difference between logits, as a fraction of the largest absolute logit, or
# of 1 if that is larger.
TOLERANCE = 1e-3

Logits = Callable[[Tensor], Tensor]


class _Format(NamedTuple):
    """A file format for networks.

    Attributes:
        is_program: whether a file contains the computation, with the normalization, and not only
            the weights.
        write: returns the content of the file of a network.
        load: returns a function from images, (N, C, H, W), uint8, to logits, (N, classes), that
            uses the content of a file. The network supplies what the file doesn't contain.
    """

    is_program: bool
    write: Callable[[TrainedNetwork], bytes]
    load: Callable[[bytes, TrainedNetwork], Logits]


class Export(NamedTuple):
    """A network that was exported.

    Attributes:
        files: the file, and its description in JSON.
        is_program: as in `_Format`.
        difference: the largest absolute difference between the logits of the file and of the run.
    """

    network: TrainedNetwork
    files: list[Path]
    is_program: bool
    difference: float


def export_network(directory: Path, output: Path) -> Export:
    """Write the network of a run, with its best weights, to a file.

    A JSON file beside it describes the network. Before the files are written, the content of the
    file is loaded again, and its logits for random images are compared with those of the run.

    Args:
        directory: the run directory.
        output: the file; its ending is one of `FORMATS`.

    Raises:
        ConfigError: there is no such format, its packages aren't installed, the run has no valid
            checkpoint, its network can't be exported, or the files can't be written.
    """
    chosen = _find_format(output)
    network = load_network(directory)
    try:
        with _quiet():
            content = chosen.write(network)
            difference = _check(chosen.load(content, network), network)
    # The libraries raise errors of many types.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        others = " or ".join(name for name in FORMATS if name != output.suffix)
        raise ConfigError(
            f"the network of {directory} can't be exported as {output.suffix} ({reason}): choose "
            f"{others}"
        ) from error
    files = [output, output.with_name(f"{output.name}.json")]
    try:
        # If the process is killed, no description of an earlier network stays beside the new file.
        files[1].unlink(missing_ok=True)
        write_atomically(files[0], content)
        write_atomically(files[1], _describe(network, chosen.is_program))
    except OSError as error:
        raise ConfigError(
            f"{output} can't be written ({error.strerror or error}): choose another file with -o"
        ) from error
    return Export(network, files, chosen.is_program, difference)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard what the libraries print within a `with` block, such as warnings and graphs.

    This output isn't needed: the file is checked, and an error has the reason in its message.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    printed = StringIO()
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            yield
    finally:
        logging.disable(before)


def _find_format(output: Path) -> _Format:
    if output.suffix not in FORMATS:
        raise ConfigError(
            f"a network can't be exported as {output}: choose a file name that ends in "
            f"{', '.join([*FORMATS][:-1])} or {[*FORMATS][-1]}"
        )
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if output.suffix == ".onnx" and missing:
        raise ConfigError(
            f"a file in the format ONNX needs {' and '.join(missing)}: install "
            "'resnet-sweep[onnx]', or choose another format"
        )
    return FORMATS[output.suffix]


def _write_weights(network: TrainedNetwork) -> bytes:
    from safetensors.torch import save

    # `save` refuses tensors that share memory.
    weights = network.network.state_dict()
    return save({name: weight.contiguous().clone() for name, weight in weights.items()})


def _load_weights(content: bytes, network: TrainedNetwork) -> Logits:
    from safetensors.torch import load

    loaded = deepcopy(network)
    loaded.network.load_state_dict(load(content))
    return loaded


def _export_program(network: TrainedNetwork) -> torch.export.ExportedProgram:
    example = torch.zeros(2, *network.data.image_shape, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(network, (example,), dynamic_shapes=({0: batch},))


def _write_program(network: TrainedNetwork) -> bytes:
    buffer = BytesIO()
    torch.export.save(_export_program(network), buffer)
    return buffer.getvalue()


def _load_program(content: bytes, network: TrainedNetwork) -> Logits:
    return torch.export.load(BytesIO(content)).module()


def _write_onnx(network: TrainedNetwork) -> bytes:
    program = torch.onnx.export(
        _export_program(network), input_names=[INPUT], output_names=[OUTPUT], verbose=False
    )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _load_onnx(content: bytes, network: TrainedNetwork) -> Logits:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


# The formats by the endings of file names.
FORMATS = {
    ".safetensors": _Format(False, _write_weights, _load_weights),
    ".pt2": _Format(True, _write_program, _load_program),
    ".onnx": _Format(True, _write_onnx, _load_onnx),
}


def _check(logits: Logits, network: TrainedNetwork) -> float:
    """Return the largest difference between logits of a file and of a network.

    Raises:
        ValueError: the difference is too large, or the shapes differ.
    """
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for size in CHECKED_BATCHES:
        shape = (size, *network.data.image_shape)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        with torch.inference_mode():
            expected, found = network(images), logits(images)
        if found.shape != expected.shape:
            raise ValueError(
                f"its logits have the shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
            )
        difference = (found - expected).abs().max().item()
        # This form of the condition also refuses NaN.
        if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
            raise ValueError(f"its logits differ from those of the run by {difference:.2g}")
        largest = max(largest, difference)
    return largest


def _describe(network: TrainedNetwork, is_program: bool) -> bytes:
    """Return what a program needs to use the file, as JSON."""
    record = network.record
    arguments = record.config["model"] | model_arguments(record.config, network.data)
    target = arguments.pop("_target_")
    content = {
        "input": {
            "name": INPUT,
            "shape": ["N", *network.data.image_shape],
            "type": "uint8" if is_program else "float32",
            "normalized": not is_program,
        },
        "output": {"name": OUTPUT, "shape": ["N", network.data.num_classes], "type": "float32"},
        **asdict(network.data),
        "model": {"class": target, "arguments": arguments},
        "run": {
            "signature": record.signature,
            "seed": record.seed,
            "epoch": network.epoch,
            "val_acc": network.val_acc,
            "inputs": record.inputs,
        },
    }
    return json.dumps(content, indent=2).encode() + b"\n"
