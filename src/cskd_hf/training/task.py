"""The contract between what is trained and the loop that trains it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..data.views import Preprocessing
from ..models.modeling_cskd import CSKDPreTrainedModel
from .rates import layer_depths, rate_factors
from .settings import SettingsError

Batch = dict[str, dict[str, Any]]


class TrainingTask(nn.Module):
    """A model, how it sees images, and a forward that returns the loss and its parts.

    Only what is trained may be registered as a submodule: it is what is wrapped, optimised and saved. Frozen encoders
    are kept in plain tuples (`self.references = (encoder,)`), which `nn.Module` does not look into.

    Args:
        model: the model that is trained and saved.
        preprocessing: from uint8 crops to its pixel values.
        freeze_norm: keep the running statistics of batch norms as they are.
    """

    # The evaluation's value by which the best weights are chosen.
    best_metric = "srcc"
    greater_is_better = True
    # From each layer of the encoder to the one before it; see `rate_factors`.
    layer_decay = 1.0

    def __init__(self, model: CSKDPreTrainedModel, preprocessing: Preprocessing, freeze_norm: bool = False) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.freeze_norm = freeze_norm
        self.memory_format = torch.contiguous_format
        self.step, self.progress = 0, 0.0
        # FSDP2 with TRANSFORMER_BASED_WRAP shards the encoder layer by layer; Accelerate asks the outermost module.
        present = {type(module).__name__ for module in model.modules()}
        self._no_split_modules = sorted(present & set(model.backbone._no_split_modules or ()))

    def pixel_values(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 crops `(batch, 3, side, side)` -> the model's pixel values `(batch, 3, height, width)`."""
        return self.preprocessing(crops).contiguous(memory_format=self.memory_format)

    def use_channels_last(self) -> None:
        """Lay out the model's convolutions, and what goes into them, channels last."""
        self.memory_format = torch.channels_last
        self.model.to(memory_format=torch.channels_last)

    def use_gradient_checkpointing(self) -> None:
        """Keep no activations inside the encoder's layers, and compute them again in the backward pass.

        Raises:
            SettingsError: transformers does not offer it for this encoder.
        """
        encoder = type(self.model.backbone).__name__
        options = {"use_reentrant": False}
        try:
            if hasattr(self.model, "activation_checkpointing_enable"):  # the name in newer transformers
                self.model.activation_checkpointing_enable(options)
            else:
                self.model.gradient_checkpointing_enable(options)
        except ValueError as error:
            raise SettingsError(
                f"gradient_checkpointing is not supported by {encoder} in transformers; train without "
                "--gradient-checkpointing, with a smaller --batch-size and more --gradient-accumulation-steps."
            ) from error

    def use_sync_batchnorm(self, device: torch.device) -> None:
        """Let batch norms take their statistics over the batches of all processes.

        Raises:
            SettingsError: the device is no GPU; torch has no other implementation.
        """
        if device.type != "cuda":
            raise SettingsError(
                f"sync_batchnorm needs CUDA GPUs (torch's SyncBatchNorm), but this run trains on '{device.type}'; leave "
                "--sync-batchnorm out: each process then normalises its own part of the batch."
            )
        self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)

    def use_compile(self) -> None:
        """Compile the model's forward with `torch.compile`, in place: names of weights stay as they are.

        One graph for each shape: were shapes generalised as they are met, a resumed run, which meets them in another
        order, would compute in another way than an unbroken one.
        """
        self.model.compile(dynamic=False)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """`loss`, a scalar with a gradient, and its named parts, of one batch of `data.loading.collate`."""
        raise NotImplementedError

    def start_step(self, step: int, max_steps: int) -> None:
        """Be told of the optimiser step that begins, 0 for the first: what changes over a run depends on it alone."""
        self.step, self.progress = step, step / max_steps

    def end_step(self) -> None:
        """Be told that an optimiser step is done."""

    def remembered(self) -> tuple[Any, ...]:
        """What a resumed run needs beside weights and optimiser, each with `state_dict` and `load_state_dict`."""
        return ()

    def evaluate(self) -> dict[str, float]:
        """Named figures of the model as it is now; empty where there is nothing to evaluate on."""
        raise NotImplementedError

    def exported(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What is saved of the model's state, by the model's own names; as it is, unless a task folds something in."""
        return state

    def frozen(self) -> tuple[nn.Module, ...]:
        """Modules that are used but not trained, to be moved to the device."""
        return ()

    def train(self, mode: bool = True) -> TrainingTask:
        super().train(mode)
        if mode:
            for module in self.model.backbone.modules():
                norm = self.freeze_norm and isinstance(module, nn.modules.batchnorm._BatchNorm)
                if norm or _is_frozen(module):  # no statistics, no dropout where nothing is learned
                    module.eval()
        return self

    def parameter_groups(
        self, learning_rate: float, weight_decay: float, head_learning_rate: float | None = None
    ) -> list[dict]:
        """Optimiser groups: heads and projectors may learn at their own rate, and the encoder's layers at falling ones,
        see `rate_factors`; biases and norms do not decay. Frozen parameters are in none."""
        prefix, factors = "model.backbone.", {}
        if self.layer_decay != 1:
            factors = rate_factors(*layer_depths(self.model, self.preprocessing), self.layer_decay)
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            rate = head_learning_rate or learning_rate
            if name.startswith(prefix):
                rate = learning_rate * factors.get(name.removeprefix(prefix), 1.0)
            groups.setdefault((rate, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
        return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters, none of which is trained."""
    first = next(module.parameters(), None)
    return first is not None and not any(parameter.requires_grad for parameter in module.parameters())
