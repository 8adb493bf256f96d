"""LAION's aesthetic heads on a CLIP, as a frozen teacher of phase 2.

https://github.com/LAION-AI/aesthetic-predictor (v1, linear, for ViT-B/16, B/32 and L/14) and
https://github.com/christophschuhmann/improved-aesthetic-predictor (v2, for ViT-L/14), both on embeddings of unit length.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from .distillation_settings import LAION
from .reference import ReferenceEncoder, load_reference, weights_fingerprint
from .settings import SettingsError

LAION_SCALE = (1.0, 10.0)  # of the ratings that the heads were fitted to: SAC, AVA and logos


class LaionHead(nn.Module):
    """The score of a CLIP embedding, on LAION's scale of about 1..10 (not limited to it).

    v2 is called an MLP, but its layers have only dropout between them: in evaluation it is one affine map, and is kept
    as that.

    Args:
        weight: `(dim,)`.
        bias: `()`.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())

    @property
    def dim(self) -> int:
        return len(self.weight)

    def forward(self, embeds: torch.Tensor) -> torch.Tensor:
        """CLIP embeddings `(batch, dim)` of any length -> scores `(batch,)`."""
        return F.normalize(embeds.float(), dim=-1) @ self.weight + self.bias

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> LaionHead:
        """Read a published `.pth`: v1 (`weight`, `bias`) or v2 (`layers.N.weight`, `layers.N.bias`). Runs no code of it.

        Raises:
            ValueError: it is not there, or holds something else.
        """
        wanted = (
            "needed is a LAION head: sa_0_4_vit_*_linear.pth (v1) or sac+logos+ava1-l14-linearMSE.pth (v2), downloaded "
            "from LAION-AI/aesthetic-predictor or christophschuhmann/improved-aesthetic-predictor"
        )
        if not Path(path).is_file():
            raise ValueError(f"'{path}' is no file; {wanted}.")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise ValueError(f"'{path}' cannot be read as weights ({reason}); {wanted}.") from error
        try:
            return cls(*_one_affine_map(state))
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            names = sorted(state)[:6] if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"'{path}' holds {names}; {wanted}.") from error


def _one_affine_map(state: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight `(dim,)` and bias `()` of linear layers one after another, multiplied out in float64."""
    stems = {name.rpartition(".")[0] for name in state}
    if {f"{stem}.{part}".lstrip(".") for stem in stems for part in ("weight", "bias")} != set(state):
        raise ValueError("not the weights and biases of linear layers")
    weight, bias = None, None
    for stem in sorted(stems, key=lambda stem: int(stem.rpartition(".")[2] or 0)):
        layer, offset = (state[f"{stem}.{part}".lstrip(".")].double() for part in ("weight", "bias"))
        weight, bias = (layer, offset) if weight is None else (layer @ weight, layer @ bias + offset)
    if weight.dim() != 2 or len(weight) != 1:
        raise ValueError("not one score")
    return weight[0], bias[0]


def soft_ratings(scores: torch.Tensor, score_values: Sequence[float], spread: float) -> torch.Tensor:
    """Rating histograms with given means: normal distributions over the bins, shifted until the mean is met.

    p_k is proportional to exp(-(v_k - m)^2 / (2 spread^2)). Its mean rises strictly with m, so the m that meets a score is
    found by bisection; near the ends of the scale the histogram becomes narrower, as it must.

    Args:
        scores: `(batch,)` in units of `score_values`; those beyond the scale count as its ends.
        score_values: `(bins,)`, rising.
        spread: standard deviation before it is cut off, in units of `score_values`.

    Returns:
        `(batch, bins)`, float32.
    """
    device, scores = scores.device, scores.double().cpu()  # not every accelerator has float64
    values = torch.tensor(score_values, dtype=torch.float64)
    span = values[-1] - values[0]
    goal = scores.clamp(values[0] + 1e-3 * span, values[-1] - 1e-3 * span)

    def histograms(centre: torch.Tensor) -> torch.Tensor:
        return (-((values - centre[:, None]) ** 2) / (2 * spread**2)).softmax(-1)

    reach = 10 * spread**2 / values.diff().min() + span  # beyond it nearly all mass is in the last bin
    low, high = torch.full_like(goal, values[0] - reach), torch.full_like(goal, values[-1] + reach)
    for _ in range(60):
        middle = (low + high) / 2
        below = (histograms(middle) * values).sum(-1) < goal
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return histograms((low + high) / 2).float().to(device)


class LaionTeacher(nn.Module):
    """A CLIP with a LAION head, in the place of a trained teacher: see `teachers.FrozenTeacher`.

    The head gives a score and no histogram, so a histogram is declared: `soft_ratings` with this score as its mean and
    `spread`. What the student learns of it beyond the mean is this assumption, not LAION's.

    Args:
        clip: the reference encoder that the head was made for.
        head: of the same width.
        score_values: bins of the ratings.
        spread: standard deviation of the declared ratings, in points of LAION's scale.
        scale: LAION scores that stand for the lowest and the highest of `score_values`.

    Raises:
        SettingsError: head and CLIP differ in width.
    """

    def __init__(
        self,
        clip: ReferenceEncoder,
        head: LaionHead,
        score_values: Sequence[float],
        *,
        spread: float = 1.4,
        scale: Sequence[float] = LAION_SCALE,
    ) -> None:
        super().__init__()
        if clip.dim != head.dim:
            raise SettingsError(
                f"the LAION head takes embeddings of {head.dim} numbers, but the reference '{clip.name}' gives {clip.dim}; "
                "give the CLIP that it was made for: openai/clip-vit-large-patch14 for L/14 and v2 (768), "
                "openai/clip-vit-base-patch16 or -patch32 for B/16 and B/32 (512)."
            )
        self.clip, self.head = clip, head
        self.preprocessing = clip.preprocessing
        self.score_values, self.bins, self.feature_size = list(score_values), len(score_values), clip.dim
        self.extras, self.side = 0, max(clip.preprocessing.size)
        self.spread, self.scale = spread, tuple(scale)

    def train(self, mode: bool = True) -> LaionTeacher:
        """Stays in evaluation mode whatever its owner does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 crops `(batch, 3, side, side)` -> `(batch, bins + dim)`: declared histogram, embedding of unit length."""
        embeds = F.normalize(self.clip(crops), dim=-1)
        low, high = self.score_values[0], self.score_values[-1]
        stretch = (high - low) / (self.scale[1] - self.scale[0])
        scores = low + (self.head(embeds) - self.scale[0]) * stretch
        return torch.cat([soft_ratings(scores, self.score_values, self.spread * stretch), embeds], dim=-1)

    def fingerprint(self) -> str:
        """What stored outputs depend on."""
        return (
            f"LAION head {weights_fingerprint(self.head)} on {self.clip.fingerprint()} over {self.score_values}, "
            f"spread {self.spread}, scale {list(self.scale)}"
        )


def load_laion_teacher(
    teacher: str, clip: str, score_values: Sequence[float], spread: float, scale: Sequence[float]
) -> LaionTeacher:
    """The teacher of `--teacher laion:HEAD.pth --teacher-clip CLIP`.

    Args:
        teacher: `laion:` and the file of the head.
        clip: see `load_reference`.
        score_values: bins of the ratings.
        spread, scale: see [`LaionTeacher`]; an empty scale takes LAION's own, which the ratings must have then.

    Raises:
        SettingsError: what is given does not fit together.
    """
    ends = (float(score_values[0]), float(score_values[-1]))
    if not scale and ends != LAION_SCALE:
        raise SettingsError(
            f"LAION heads score on 1..10, but the ratings are on {ends[0]:g}..{ends[1]:g}; say which LAION scores stand "
            "for the ends of the ratings' scale, e.g. --laion-scale 1 10."
        )
    try:
        head, reference = LaionHead.from_file(teacher.removeprefix(LAION)), load_reference(clip)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return LaionTeacher(reference, head, score_values, spread=spread, scale=scale or LAION_SCALE)
