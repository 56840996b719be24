"""Metrics of the steps in an epoch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resnet_sweep.runs.metrics import LayerNorms


class StepMetrics:
    """Metrics of each step in the current epoch, kept on the device until they are read.

    Reading a number from a GPU blocks until the GPU has computed it. Only `state_dict` and the
    methods that return numbers do this.

    Attributes:
        parameters: trained weights of the model.
        layers: names of the weights with two or more dimensions (filters and matrices), or of all
            weights if there are none.
        losses: (steps,), mean loss of each batch, in training mode.
        correct: (steps,), number of correctly classified images in each batch; an image with a
            mixed label counts as the share of the predicted class in its label.
        grad_norms: (steps,), Euclidean norm of the gradient of all weights, before clipping.
        layer_grad_norms: (steps, layers), Euclidean norm of each layer's gradient.
        update_norms: (layers,), Euclidean norm of the change of each layer in the last step.
    """

    SAVED = ("losses", "correct", "grad_norms", "layer_grad_norms")

    def __init__(self, model: nn.Module, steps: int, device: torch.device) -> None:
        weights: dict[str, Tensor] = dict(model.named_parameters())
        weights = {name: weight for name, weight in weights.items() if weight.requires_grad}
        names, self.parameters = [*weights], [*weights.values()]
        indices = range(len(names))
        self._layer_indices = [i for i in indices if self.parameters[i].ndim >= 2] or [*indices]
        self._layer_weights = [self.parameters[index] for index in self._layer_indices]
        self.layers = [names[index].removesuffix(".weight") for index in self._layer_indices]
        self._zero = torch.zeros((), device=device)
        self.losses = torch.zeros(steps, device=device)
        self.correct = torch.zeros(steps, device=device)
        self.grad_norms = torch.zeros(steps, device=device)
        self.layer_grad_norms = torch.zeros(steps, len(self.layers), device=device)
        self.update_norms = torch.zeros(len(self.layers), device=device)

    def update(self, step: int, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Store the metrics of a step after its backward pass.

        Args:
            step: number of the step in the epoch, from 0.
            loss: mean loss of the batch, a scalar.
            logits: (B, classes).
            labels: (B,), or (B, classes) as probabilities.

        Returns:
            Norm of the gradient of all weights, a scalar.
        """
        predicted = logits.detach().argmax(1)
        if labels.ndim == 1:
            correct = (predicted == labels).sum()
        else:
            correct = labels.gather(1, predicted[:, None]).sum()
        gradients = [weight.grad for weight in self.parameters]
        norms = torch._foreach_norm([gradient for gradient in gradients if gradient is not None])
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        self.losses[step] = loss.detach()
        self.correct[step] = correct.float()
        self.grad_norms[step] = norm
        found = iter(norms)
        # A weight that the loss doesn't depend on has no gradient.
        all_norms = [self._zero if gradient is None else next(found) for gradient in gradients]
        self.layer_grad_norms[step] = torch.stack([all_norms[i] for i in self._layer_indices])
        return norm

    def copy_layer_weights(self) -> list[Tensor]:
        """Return a copy of the layers' weights, for `measure_update`."""
        return [weight.detach().clone() for weight in self._layer_weights]

    @torch.no_grad()
    def measure_update(self, before: list[Tensor]) -> None:
        """Store the norms of the changes of the layers' weights in a step.

        Args:
            before: the result of `copy_layer_weights` before the step.
        """
        norms = torch._foreach_norm(torch._foreach_sub(self._layer_weights, before))
        self.update_norms.copy_(torch.stack(norms))

    def largest_gradients(self, first: int, last: int) -> tuple[list[str], list[float]]:
        """Return the layer with the largest gradient in each step, and the norm of that gradient.

        Args:
            first, last: the steps, from `first` up to, but not including, `last`.
        """
        largest = self.layer_grad_norms[first:last].nan_to_num(nan=torch.inf).max(1)
        return [self.layers[layer] for layer in largest.indices.tolist()], largest.values.tolist()

    @torch.no_grad()
    def layer_norms(self, steps: int) -> list[LayerNorms]:
        """Return the norms of each layer in an epoch with this number of steps."""
        columns = (
            self.layer_grad_norms[:steps].cpu().double().mean(0).tolist(),
            torch.stack(torch._foreach_norm(self._layer_weights)).tolist(),
            self.update_norms.tolist(),
        )
        return [LayerNorms(*values) for values in zip(self.layers, *columns, strict=True)]

    def epoch_means(self, batch_sizes: Sequence[int]) -> tuple[float, float, float]:
        """Return the mean loss of the images, the accuracy in percent, and the mean gradient norm.

        Args:
            batch_sizes: number of images in each step of the epoch.
        """
        steps, images = len(batch_sizes), sum(batch_sizes)
        losses, correct, norms = (
            values[:steps].cpu().double() for values in (self.losses, self.correct, self.grad_norms)
        )
        loss = (losses * torch.tensor(batch_sizes)).sum().item() / images
        return loss, 100 * correct.sum().item() / images, norms.mean().item()

    def state_dict(self, steps: int) -> dict[str, Any]:
        """Return the metrics of the first `steps` steps of the epoch."""
        saved = {name: getattr(self, name)[:steps].cpu() for name in self.SAVED}
        return saved | {"update_norms": self.update_norms.cpu()}

    def load_state_dict(self, state: dict[str, Any], steps: int) -> None:
        """Restore the metrics of the first `steps` steps of the epoch."""
        for name in self.SAVED:
            getattr(self, name)[:steps] = state[name]
        self.update_norms[:] = state["update_norms"]
