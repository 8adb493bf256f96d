"""Scores of pictures that are tensors already, differentiable: a reward for models that make pictures."""

from __future__ import annotations

import torch
from torch import nn

from ..data.views import Preprocessing
from ..evaluation.predict import load_scorer
from ..models.modeling_cskd import CSKDForImageAesthetics

_SLACK = 0.05  # decoders of generative models overshoot a little


class TensorScorer(nn.Module):
    """Scores float RGB pictures of any size, with gradients to their pixels.

    ```python
    >>> score_tensor = TensorScorer.from_pretrained("runs/student")
    >>> loss = -score_tensor(pictures).mean()  # pictures: (batch, 3, height, width), 0 to 1
    ```

    The resizing is that of the image processor (antialiased), as a function of the pixels, so a score differs from the
    pipeline's only by the rounding of pixels to whole numbers there. The weights are frozen and get no gradients.

    Args:
        model: trained scorer; put into evaluation mode.
        preprocessing: its own.
    """

    def __init__(self, model: CSKDForImageAesthetics, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.preprocessing = preprocessing

    @classmethod
    def from_pretrained(cls, name_or_path: str) -> TensorScorer:
        """Load a checkpoint: Hub name or folder.

        Raises:
            ValueError: there is none, or it has no trained head.
        """
        return cls(*load_scorer(name_or_path))

    def train(self, mode: bool = True) -> TensorScorer:
        """Stays in evaluation mode, also as a part of a model that is trained."""
        return super().train(False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Score pictures.

        Args:
            pixels: float `(batch, 3, height, width)`, red, green, blue, of 0 to 1.

        Returns:
            scores `(batch,)` on the scale of the ratings.

        Raises:
            ValueError: another shape, whole numbers, or values outside of 0 to 1.
        """
        if pixels.dim() != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
            raise ValueError(
                f"pixels of shape {tuple(pixels.shape)} and type {pixels.dtype} are not float pictures of shape (batch, 3, "
                "height, width); of whole numbers give pixels.float() / 255."
            )
        low, high = torch.aminmax(pixels.detach())
        if not (low >= -_SLACK and high <= 1 + _SLACK):
            raise ValueError(
                f"pixels lie between {low.item():g} and {high.item():g}; they must be of 0 to 1: divide 0..255 by 255, map "
                "-1..1 by (pixels + 1) / 2."
            )
        return self.model(pixel_values=self.preprocessing.prepare(pixels).to(self.model.dtype)).score
