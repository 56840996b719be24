"""What the steps of an epoch measured."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resnet_sweep.runs.layers import Layer

KEPT = ("losses", "correct", "grad_norms", "layer_grad_norms")


class Tally:
    """Figures of each step of the present epoch, kept on the device until somebody looks.

    Args:
        model: in training.
        steps: in a whole epoch.
        device: of the model.

    Attributes:
        layers: names of the weights that have two or more dimensions: filters and matrices.
        losses: (steps,), of a batch, in training mode.
        correct: (steps,), images of a batch that were classified rightly; an image with a mixed
            label counts by the share of the class that was predicted.
        grad_norms: (steps,), Euclidean norm of the gradient of all weights, before any clipping.
        layer_grad_norms: (steps, layers), of each layer's.
        update_norms: (layers,), of the change that the epoch's last step made to each layer.
    """

    def __init__(self, model: nn.Module, steps: int, device: torch.device) -> None:
        trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        self.weights = [weight for _, weight in trained]
        self.places = [place for place, weight in enumerate(self.weights) if weight.ndim >= 2]
        self.layers = [trained[place][0].removesuffix(".weight") for place in self.places]
        self.losses = torch.zeros(steps, device=device)
        self.correct = torch.zeros(steps, device=device)
        self.grad_norms = torch.zeros(steps, device=device)
        self.layer_grad_norms = torch.zeros(steps, len(self.places), device=device)
        self.update_norms = torch.zeros(len(self.places), device=device)

    def count(self, step: int | Tensor, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Take down a step after its backward pass.

        Args:
            step: of the epoch, from 0; or (1,), int64, on the device.
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
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        norms = torch._foreach_norm(gradients)
        if len(gradients) < len(self.weights):
            # A weight that the loss doesn't depend on has no gradient.
            found, none = iter(norms), torch.zeros((), device=loss.device)
            each = [none if weight.grad is None else next(found) for weight in self.weights]
        else:
            each = norms
        self.losses[step] = loss.detach()
        self.correct[step] = correct.float()
        norm = torch.linalg.vector_norm(torch.stack(norms))
        self.grad_norms[step] = norm
        if self.places:
            self.layer_grad_norms[step] = torch.stack([each[place] for place in self.places])
        return norm

    def copy_layers(self) -> list[Tensor]:
        """The layers' weights as they are now, for `count_update`."""
        return [self.weights[place].detach().clone() for place in self.places]

    def count_update(self, before: list[Tensor]) -> None:
        """Take down what a step made of weights that were as `before`."""
        if self.places:
            after = [self.weights[place].detach() for place in self.places]
            norms = torch._foreach_norm(torch._foreach_sub(after, before))
            self.update_norms.copy_(torch.stack(norms))

    def steepest(self, first: int, last: int) -> list[tuple[str, float]]:
        """For each step from `first` up to `last`, the layer with the largest gradient, and that
        gradient's norm."""
        if not self.places:
            return [("", 0.0)] * (last - first)
        largest = self.layer_grad_norms[first:last].nan_to_num(nan=torch.inf).max(1)
        places, norms = largest.indices.tolist(), largest.values.tolist()
        return [(self.layers[place], norm) for place, norm in zip(places, norms, strict=True)]

    def summarize_layers(self, steps: int) -> list[Layer]:
        """Each layer at the end of an epoch of so many steps."""
        if not self.places:
            return []
        weights = torch._foreach_norm([self.weights[place].detach() for place in self.places])
        columns = (
            self.layer_grad_norms[:steps].cpu().double().mean(0).tolist(),
            torch.stack(weights).tolist(),
            self.update_norms.tolist(),
        )
        return [Layer(*figures) for figures in zip(self.layers, *columns, strict=True)]

    def means(self, sizes: Sequence[int]) -> tuple[float, float, float]:
        """Of an epoch whose steps had batches of these sizes: mean loss and percent of right
        classifications over the images, and mean norm of the gradient over the steps."""
        steps, images = len(sizes), sum(sizes)
        losses, correct, norms = (
            each[:steps].cpu().double() for each in (self.losses, self.correct, self.grad_norms)
        )
        loss = (losses * torch.tensor(sizes)).sum().item() / images
        return loss, 100 * correct.sum().item() / images, norms.mean().item()

    def state_dict(self, steps: int) -> dict[str, Any]:
        """What the first steps of the epoch measured, for `load_state_dict`."""
        figures = {name: getattr(self, name)[:steps].cpu() for name in KEPT}
        return figures | {"update_norms": self.update_norms.cpu()}

    def load_state_dict(self, state: dict[str, Any], steps: int) -> None:
        """Go on after so many steps of an epoch."""
        for name in KEPT:
            # What an older version didn't measure is unknown.
            getattr(self, name)[:steps] = state.get(name, torch.nan)
        self.update_norms[:] = state.get("update_norms", torch.nan)
