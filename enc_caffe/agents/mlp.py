"""A small fully connected network in NumPy: forward, backward, Adam.

Two hidden layers of 300 on batches of 64 take milliseconds on a CPU, which is nothing beside the evaluation of a network. PyTorch's
wheel for Linux brings its CUDA libraries along (over 2 GB): nobody who wants to search ranks should need that.
"""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

#: Largest weight of the last layer at the start (Lillicrap et al., ICLR 2016, section 7): answers begin near the middle.
LAST = 3e-3
#: Adam's decay of both moments, and what keeps it from dividing by 0 (Kingma and Ba, ICLR 2015).
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Mlp:
    """Linear layers with ReLU between them; float32.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden units of each layer, outputs.
    rng : Generator
    rate : float
        Adam's step.
    sigmoid : bool
        Whether the outputs lie in (0, 1).
    start : float
        The output of an untrained network (before the sigmoid).
    """

    def __init__(
        self, sizes: Sequence[int], rng: np.random.Generator, rate: float, sigmoid: bool = False, start: float = 0.0
    ) -> None:
        self.parameters: list[np.ndarray] = []
        for inputs, outputs in zip(sizes, sizes[1:]):
            last = len(self.parameters) == 2 * (len(sizes) - 2)
            most = LAST if last else 1.0 / np.sqrt(inputs)
            self.parameters.append(rng.uniform(-most, most, (inputs, outputs)).astype(np.float32))
            self.parameters.append(np.full(outputs, start if last else 0.0, np.float32))
        self._sigmoid, self._rate, self._steps = sigmoid, rate, 0
        self._moments = [(np.zeros_like(p), np.zeros_like(p)) for p in self.parameters]
        self._seen: list[np.ndarray] = []
        self._out: Optional[np.ndarray] = None

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Outputs (batch, outputs) of inputs (batch, inputs); what :meth:`backward` needs is kept."""
        x, self._seen = np.asarray(inputs, np.float32), []
        for at in range(0, len(self.parameters), 2):
            self._seen.append(x)
            x = x @ self.parameters[at] + self.parameters[at + 1]
            if at + 2 < len(self.parameters):
                x = np.maximum(x, 0.0)
        self._out = 1.0 / (1.0 + np.exp(-x)) if self._sigmoid else x
        return self._out

    def backward(self, above: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Gradients of the parameters and of the inputs, from those of the last outputs (batch, outputs)."""
        assert self._out is not None
        g = np.asarray(above, np.float32)
        if self._sigmoid:
            g = g * self._out * (1.0 - self._out)
        found: list[np.ndarray] = []
        for layer in range(len(self._seen) - 1, -1, -1):
            found[:0] = [self._seen[layer].T @ g, g.sum(axis=0)]
            g = g @ self.parameters[2 * layer].T
            if layer:
                g = g * (self._seen[layer] > 0)
        return found, g

    def descend(self, gradients: Sequence[np.ndarray]) -> None:
        """One step of Adam down these gradients."""
        self._steps += 1
        rate = self._rate * np.sqrt(1 - BETA2**self._steps) / (1 - BETA1**self._steps)
        for p, g, (first, second) in zip(self.parameters, gradients, self._moments):
            first += (1 - BETA1) * (g - first)
            second += (1 - BETA2) * (g * g - second)
            p -= np.float32(rate) * first / (np.sqrt(second) + np.float32(EPSILON))

    def follow(self, other: Mlp, part: float) -> None:
        """Move ``part`` of the way to another network of the same sizes."""
        for own, theirs in zip(self.parameters, other.parameters):
            own += np.float32(part) * (theirs - own)
