"""Metrics of the steps of an epoch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resnet_sweep.runs.metrics import LayerNorms

SAVED = ("losses", "correct", "grad_norms", "layer_grad_norms")


class StepMetrics:
    """Metrics of each step of the present epoch, kept on the device until they are read.

    Reading a number from a GPU waits for it, so nothing here does, but for the methods that return
    numbers.

    Args:
        model: the model in training.
        steps: steps in a whole epoch.
        device: of the model.

    Attributes:
        parameters: the model's trained weights.
        layers: names of the weights that have two or more dimensions: filters and matrices.
        losses: (steps,), mean loss of a batch, in training mode.
        correct: (steps,), correctly classified images of a batch; an image with a mixed label
            counts by the share of the predicted class.
        grad_norms: (steps,), Euclidean norm of the gradient of all weights, before clipping.
        layer_grad_norms: (steps, layers), of each layer's.
        update_norms: (layers,), of the change that the epoch's last step made to each layer.
    """

    def __init__(self, model: nn.Module, steps: int, device: torch.device) -> None:
        trained = [
            (name, weight) for name, weight in model.named_parameters() if weight.requires_grad
        ]
        self.parameters = [weight for _, weight in trained]
        self._layer_indices = [
            index for index, weight in enumerate(self.parameters) if weight.ndim >= 2
        ]
        self.layers = [trained[index][0].removesuffix(".weight") for index in self._layer_indices]
        self.losses = torch.zeros(steps, device=device)
        self.correct = torch.zeros(steps, device=device)
        self.grad_norms = torch.zeros(steps, device=device)
        self.layer_grad_norms = torch.zeros(steps, len(self.layers), device=device)
        self.update_norms = torch.zeros(len(self.layers), device=device)

    def update(self, step: int, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Store the metrics of a step after its backward pass.

        Args:
            step: of the epoch, from 0.
            loss: a scalar.
            logits: (B, classes).
            labels: (B,), or (B, classes) as probabilities.

        Returns:
            A scalar, the norm of the gradient of all weights.
        """
        predicted = logits.detach().argmax(1)
        if labels.ndim == 1:
            correct = (predicted == labels).sum()
        else:
            correct = labels.gather(1, predicted[:, None]).sum()
        gradients = [weight.grad for weight in self.parameters if weight.grad is not None]
        norms = torch._foreach_norm(gradients)
        if len(gradients) < len(self.parameters):
            # A weight that the loss doesn't depend on has no gradient.
            found, zero = iter(norms), torch.zeros((), device=loss.device)
            all_norms = [zero if weight.grad is None else next(found) for weight in self.parameters]
        else:
            all_norms = list(norms)
        self.losses[step] = loss.detach()
        self.correct[step] = correct.float()
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        self.grad_norms[step] = norm
        if self.layers:
            self.layer_grad_norms[step] = torch.stack(
                [all_norms[index] for index in self._layer_indices]
            )
        return norm

    def copy_layer_weights(self) -> list[Tensor]:
        """Return a copy of the layers' weights, for `measure_update`."""
        return [self.parameters[index].detach().clone() for index in self._layer_indices]

    def measure_update(self, before: list[Tensor]) -> None:
        """Store how far a step moved the layers' weights from what they were before it."""
        if self.layers:
            after = [self.parameters[index].detach() for index in self._layer_indices]
            norms = torch._foreach_norm(torch._foreach_sub(after, before))
            self.update_norms.copy_(torch.stack(norms))

    def largest_gradients(self, first: int, last: int) -> list[tuple[str, float]]:
        """Return the layer with the largest gradient, and that gradient's norm, for each step from
        `first` up to, but not including, `last`."""
        if not self.layers:
            return [("", 0.0)] * (last - first)
        largest = self.layer_grad_norms[first:last].nan_to_num(nan=torch.inf).max(1)
        layers, norms = largest.indices.tolist(), largest.values.tolist()
        return [(self.layers[layer], norm) for layer, norm in zip(layers, norms, strict=True)]

    def layer_norms(self, steps: int) -> list[LayerNorms]:
        """Return the norms of each layer at the end of an epoch of this many steps."""
        if not self.layers:
            return []
        weights = torch._foreach_norm(
            [self.parameters[index].detach() for index in self._layer_indices]
        )
        columns = (
            self.layer_grad_norms[:steps].cpu().double().mean(0).tolist(),
            torch.stack(weights).tolist(),
            self.update_norms.tolist(),
        )
        return [LayerNorms(*values) for values in zip(self.layers, *columns, strict=True)]

    def epoch_means(self, batch_sizes: Sequence[int]) -> tuple[float, float, float]:
        """Return means over an epoch whose steps had batches of these sizes.

        Returns:
            Mean loss over the images, percent of correctly classified images, and mean norm of the
            gradient over the steps.
        """
        steps, images = len(batch_sizes), sum(batch_sizes)
        losses, correct, norms = (
            values[:steps].cpu().double() for values in (self.losses, self.correct, self.grad_norms)
        )
        loss = (losses * torch.tensor(batch_sizes)).sum().item() / images
        return loss, 100 * correct.sum().item() / images, norms.mean().item()

    def state_dict(self, steps: int) -> dict[str, Any]:
        """Return the metrics of the first `steps` steps of the epoch."""
        saved = {name: getattr(self, name)[:steps].cpu() for name in SAVED}
        return saved | {"update_norms": self.update_norms.cpu()}

    def load_state_dict(self, state: dict[str, Any], steps: int) -> None:
        """Continue after `steps` steps of an epoch."""
        for name in SAVED:
            getattr(self, name)[:steps] = state[name]
        self.update_norms[:] = state["update_norms"]
