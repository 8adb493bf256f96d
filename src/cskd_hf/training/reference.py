"""The reference encoder: the frozen CLIP, or any other image encoder, with its own preprocessing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..data.views import Preprocessing
from ..evaluation.predict import weights_fingerprint
from ..models.encoders_cskd import pool_features, run_encoder, spatial_features
from .arguments import AlignSettings
from .own_encoders import import_function, names_function
from .reference_loading import load_reference_encoder
from .token_alignment import TOKEN_LOSSES


class ReferenceEncoder(nn.Module):
    """A frozen image encoder that takes the same crop as the student and prepares it in its own way.

    ```python
    >>> clip = ReferenceEncoder.from_pretrained("openai/clip-vit-base-patch32")
    >>> own = ReferenceEncoder(my_module, Preprocessing(size=(224, 224)), name="mine")
    ```

    Args:
        encoder: any module that maps normalised pixel values `(batch, 3, height, width)` to features `(batch, dim)`, or
            to a transformers output with `image_embeds`, or with a state that `pooling` makes one feature of.
        preprocessing: its size, mean, std and interpolation.
        name: names it in configs, logs and stores.
        pooling: see [`CSKDConfig`].

    Attributes:
        dim: width of the embedding.
        map_shape: channels, rows and columns of the token map that follows the embedding in each row; None without.

    Raises:
        ValueError: the encoder does not return one feature an image.
    """

    def __init__(self, encoder: nn.Module, preprocessing: Preprocessing, *, name: str, pooling: str = "auto") -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.name = name
        self.pooling = pooling
        self.map_shape: tuple[int, int, int] | None = None
        probe = self(torch.zeros(1, 3, *preprocessing.size, dtype=torch.uint8, device=self._device()))
        if probe.dim() != 2:
            raise ValueError(
                f"reference encoder '{name}' returns features of shape {tuple(probe.shape)}; (batch, dim) is needed."
            )
        self.dim = probe.shape[1]

    def _device(self) -> torch.device:
        return next((p.device for p in self.encoder.parameters()), torch.device("cpu"))

    def train(self, mode: bool = True) -> ReferenceEncoder:
        """Stays in evaluation mode whatever its owner does."""
        return super().train(False)

    def use_tokens(self, grid: int) -> None:
        """Have the token map follow the embedding, averaged down to at most `grid` rows and columns; 0 leaves it out.

        Raises:
            ValueError: the encoder gives no map.
        """
        self.map_shape = None
        if not grid:
            return
        pixel_values = self.preprocessing(
            torch.zeros(1, 3, *self.preprocessing.size, dtype=torch.uint8, device=self._device())
        )
        with torch.no_grad():
            shape = self._map(self._encode(pixel_values), pixel_values).shape
        self.map_shape = (shape[1], min(grid, shape[2]), min(grid, shape[3]))

    @torch.no_grad()
    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 crops `(batch, 3, side, side)` -> float32 rows: features `(batch, dim)`, behind them the map, if used.

        A row is flat, so that a feature store can hold it; `unpack` takes it apart.
        """
        pixel_values = self.preprocessing(crops.to(self._device()))
        outputs = self._encode(pixel_values)
        if isinstance(outputs, torch.Tensor):
            embeds = outputs
        elif outputs.get("image_embeds") is not None:
            embeds = outputs["image_embeds"]
        else:
            embeds = pool_features(outputs, self.pooling)
        if self.map_shape is None:
            return embeds.float()
        tokens = F.adaptive_avg_pool2d(self._map(outputs, pixel_values).float(), self.map_shape[1:])
        return self.pack(embeds.float(), tokens)

    @staticmethod
    def pack(embeds: torch.Tensor, feature_map: torch.Tensor) -> torch.Tensor:
        """`(batch, dim)` and `(batch, channels, rows, columns)` -> `(batch, dim + channels * rows * columns)`."""
        return torch.cat([embeds, feature_map.flatten(1)], dim=1)

    def unpack(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What `forward` returned, or a store held -> features `(batch, dim)`, and the map where it is used."""
        if self.map_shape is None:
            return rows, None
        return rows[:, : self.dim], rows[:, self.dim :].unflatten(1, self.map_shape)

    def _encode(self, pixel_values: torch.Tensor) -> torch.Tensor | ModelOutput:
        if isinstance(self.encoder, PreTrainedModel):
            return run_encoder(self.encoder, pixel_values)
        return self.encoder(pixel_values)

    def _map(self, outputs: torch.Tensor | ModelOutput, pixel_values: torch.Tensor) -> torch.Tensor:
        if isinstance(outputs, torch.Tensor):
            raise ValueError(
                f"reference encoder '{self.name}' returns a feature alone; for a token loss it must return a transformers "
                "output with last_hidden_state."
            )
        if "image_embeds" in outputs:
            # A CLIP's last_hidden_state comes before the norm that its embedding has passed.
            norm = self.encoder.vision_model.post_layernorm
            outputs = ModelOutput(last_hidden_state=norm(outputs["last_hidden_state"]))
        return spatial_features(outputs, pixel_values.shape, getattr(self.encoder, "config", None))

    def fingerprint(self) -> str:
        """Name, preprocessing and a hash of the weights: what stored features depend on."""
        tokens = f" map={self.map_shape}" if self.map_shape else ""
        weights = weights_fingerprint(self.encoder)
        return f"{self.name} {self.preprocessing} pooling={self.pooling}{tokens} weights={weights}"

    @classmethod
    def from_pretrained(cls, name_or_path: str, *, name: str | None = None, pooling: str = "auto") -> ReferenceEncoder:
        """Load a CLIP, SigLIP, DINO or any other transformers image encoder; see [`load_reference_encoder`].

        Args:
            name_or_path: on the Hub, or a folder, with its image processor.
            name: defaults to the last part of `name_or_path`.
            pooling: for encoders without an `image_embeds` output.
        """
        encoder, found, preprocessing = load_reference_encoder(name_or_path)
        return cls(
            encoder,
            preprocessing,
            name=name or str(name_or_path).rstrip("/").split("/")[-1],
            pooling=found if pooling == "auto" else pooling,
        )


def load_reference(location: str) -> ReferenceEncoder:
    """A reference encoder by Hub name, folder, or `package.module:function` that returns a [`ReferenceEncoder`].

    Raises:
        SettingsError: the function is not there.
        ValueError: it returns something else.
    """
    if not names_function(location):
        return ReferenceEncoder.from_pretrained(location)
    reference = import_function(location)()
    if not isinstance(reference, ReferenceEncoder):
        raise ValueError(
            f"'{location}' returned {type(reference).__name__}; it must return a cskd_hf.ReferenceEncoder."
        )
    return reference


def references_for(
    settings: AlignSettings, references: Sequence[ReferenceEncoder] | None = None
) -> tuple[ReferenceEncoder, ...]:
    """The references of a run, with their token maps where one of its losses needs these.

    Args:
        settings: of phase 1.
        references: encoders of one's own, in place of loading those that `settings.reference` names.
    """
    references = tuple(references or load_references(settings.reference))
    tokens = any(name in TOKEN_LOSSES for name in settings.loss)
    for reference in references:
        reference.use_tokens(settings.token_grid if tokens else 0)
    return references


def load_references(locations: list[str]) -> list[ReferenceEncoder]:
    """Those of the settings; a name that is taken gets a number."""
    references: dict[str, ReferenceEncoder] = {}
    for reference in map(load_reference, locations):
        name, number = reference.name, 2
        while reference.name in references:
            reference.name, number = f"{name}-{number}", number + 1
        references[reference.name] = reference
    return list(references.values())
