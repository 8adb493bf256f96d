"""How large a model is, and how much it computes for an image: counted without weights or memory for them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..models.configuration_cskd import CSKDConfig
from ..models.modeling_cskd import CSKDForImageAesthetics


def count_parameters(module: nn.Module) -> int:
    """Weights of a module, on any device, frozen ones too; not its buffers, such as the statistics of batch norms."""
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(config: CSKDConfig) -> CSKDForImageAesthetics:
    """The scorer of a config without memory for its weights, in evaluation mode."""
    config = copy.deepcopy(config)
    # Written out as matrix products, which the counter knows on every device; fused attention it knows on some.
    config._attn_implementation = "eager"
    with torch.device("meta"):
        return CSKDForImageAesthetics(config).eval()


@torch.no_grad()
def count_macs(model: CSKDForImageAesthetics, size: Sequence[int]) -> int:
    """Multiply-adds of the encoder for one image: half the operations that torch's `FlopCounterMode` finds.

    It counts convolutions and matrix products (linear layers, attention): norms, activations, additions and pooling are
    left out, as is the custom of published counts.

    Args:
        model: from [`on_meta`].
        size: height and width in pixels.
    """
    with FlopCounterMode(display=False) as counter:
        model.encode(torch.zeros(1, 3, *size, device="meta"))
    return counter.get_total_flops() // 2
