"""PHI-S: reference features at zero mean and equal variance in every channel, by an invertible map."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean `(dim,)` and covariance `(dim, dim)` of a reference encoder's features, float64.

    Args:
        mean, covariance: over `count` features.
        count: number of features.
        source: what they were computed of: the reference's fingerprint.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    count: int
    source: str = ""

    @classmethod
    def compute(cls, batches: Iterable[torch.Tensor], source: str = "") -> FeatureStatistics:
        """One pass over batches `(images, dim)`; rows of zeros, which stand for unreadable images, are left out.

        Batches are merged by Chan's update (Chan, Golub and LeVeque, 1979), which does not lose digits where the mean is
        large against the spread.

        Raises:
            ValueError: fewer than two features, or all of them the same.
        """
        count, mean, scatter = 0, torch.zeros(()), torch.zeros(())
        for batch in batches:
            rows = batch.detach().double().cpu()
            rows = rows[rows.any(dim=1)]
            if not len(rows):
                continue
            own = rows.mean(0)
            centred, shift, total = rows - own, own - mean, count + len(rows)
            scatter = (
                scatter + centred.T @ centred + torch.outer(shift, shift) * (count * len(rows) / total)
                if count
                else centred.T @ centred
            )
            mean, count = mean + shift * (len(rows) / total), total
        if count < 2:
            raise ValueError(
                f"statistics of the reference features need two readable images or more; there are {count}."
            )
        if not scatter.trace() > 0:
            raise ValueError(f"all {count} reference features are the same: there is nothing to align to.")
        return cls(mean, scatter / count, count, source)

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        tensors = {"mean": self.mean.contiguous(), "covariance": self.covariance.contiguous()}
        save_file(tensors, partial, metadata={"count": str(self.count), "source": self.source})
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> FeatureStatistics:
        """Read what `save` wrote."""
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
            return cls(file.get_tensor("mean"), file.get_tensor("covariance"), int(facts["count"]), facts["source"])


class PhiS(nn.Module):
    """PCA-Hadamard isotropic standardisation (Ranzinger et al., "PHI-S", arXiv 2410.01680, section 2.3).

    z = H U^T (x - mean) / phi, with the covariance U diag(l) U^T, phi = sqrt(mean(l)) and H orthogonal with
    diag(H diag(l) H^T) = mean(l): every channel of z has variance 1. A rotation and one scale, so distances keep their
    proportions, and the map is inverted without loss.

    Args:
        statistics: of the reference's features.
    """

    def __init__(self, statistics: FeatureStatistics) -> None:
        super().__init__()
        eigenvalues, vectors = torch.linalg.eigh(statistics.covariance)
        eigenvalues = eigenvalues.clamp_min(0)
        rotation = equal_diagonal_rotation(eigenvalues) @ vectors.T
        self.register_buffer("mean", statistics.mean.float())
        self.register_buffer("rotation", rotation.float())
        self.register_buffer("scale", eigenvalues.mean().sqrt().float())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Raw features `(batch, dim)` -> standardised, float32."""
        with torch.autocast(features.device.type, enabled=False):
            return (features.float() - self.mean) @ self.rotation.T / self.scale

    def invert(self, standardised: torch.Tensor) -> torch.Tensor:
        """Standardised features `(batch, dim)` -> raw, float32."""
        with torch.autocast(standardised.device.type, enabled=False):
            return standardised.float() @ self.rotation * self.scale + self.mean

    def fold(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight `(dim, inputs)` and bias `(dim,)` of the linear layer that gives `invert` of what this one gives.

        In float64: only the result is rounded.
        """
        to_raw = self.rotation.double().T * self.scale.double()
        folded = to_raw @ weight.to(to_raw), to_raw @ bias.to(to_raw) + self.mean.double()
        return folded[0].to(weight), folded[1].to(bias)


def equal_diagonal_rotation(eigenvalues: torch.Tensor) -> torch.Tensor:
    """Orthogonal Q `(dim, dim)` such that all diagonal entries of Q diag(eigenvalues) Q^T are the same.

    A Hadamard matrix does it for any eigenvalues. Where the dim has none that `hadamard` knows (a real one exists only
    for 1, 2 and multiples of 4), dim - 1 plane rotations do it for the given ones: the constructive half of the
    Schur-Horn theorem (Chan and Li, "Diagonal elements and eigenvalues of a real symmetric matrix", 1983; Bendel and
    Mickey, 1978).
    """
    dim = len(eigenvalues)
    matrix = hadamard(dim)
    if matrix is not None:
        return matrix / math.sqrt(dim)
    rotation = torch.eye(dim, dtype=torch.float64)
    current = torch.diag(eigenvalues.double())
    target = current.trace() / dim
    for row in range(dim - 1):
        rest = current.diagonal()[row:]
        low, high = row + int(rest.argmin()), row + int(rest.argmax())
        if rest.max() - rest.min() <= 1e-12 * target:
            break
        # A rotation of the plane (low, high) that brings entry `low` to the target: t = tan of its angle.
        a, b, c = current[low, low] - target, current[high, high] - target, current[low, high]
        t = (c + torch.sqrt(c * c - a * b)) / b
        cos = 1 / torch.sqrt(1 + t * t)
        plane = torch.eye(dim, dtype=torch.float64)
        plane[low, low], plane[high, high], plane[low, high], plane[high, low] = cos, cos, -t * cos, t * cos
        # The finished entry leaves the ones still to do.
        order = list(range(dim))
        order[row], order[low] = order[low], order[row]
        plane = plane[order]
        current, rotation = plane @ current @ plane.T, plane @ rotation
    return rotation


def hadamard(dim: int) -> torch.Tensor | None:
    """A Hadamard matrix `(dim, dim)` of +1 and -1 with orthogonal rows, float64; None where no construction here has it.

    Sylvester's doubling of Paley's first construction (of order q + 1, for primes q = 3 modulo 4): among others every
    power of two, 384, 640, 768, 1152, 1280, 1408 and 1536.
    """
    base, doublings = dim, 0
    while True:
        if base == 1 or base % 4 == 0 and _is_prime(base - 1):
            break
        if base % 2:
            return None
        base, doublings = base // 2, doublings + 1
    matrix = torch.ones(1, 1, dtype=torch.float64) if base == 1 else _paley(base - 1)
    double = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    for _ in range(doublings):
        matrix = torch.kron(double, matrix)
    return matrix


def _paley(q: int) -> torch.Tensor:
    """Order q + 1: identity plus a skew matrix of the quadratic residues modulo the prime q = 3 (mod 4)."""
    residue = -torch.ones(q, dtype=torch.float64)
    residue[[x * x % q for x in range(1, q)]] = 1
    residue[0] = 0
    rows = torch.arange(q)
    skew = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = residue[(rows[None] - rows[:, None]) % q]
    return torch.eye(q + 1, dtype=torch.float64) + skew


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
