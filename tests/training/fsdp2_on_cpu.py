"""Phase 1 under FSDP2 on CPU processes, for the tests: torch shards there as well, but Accelerate (1.15) turns FSDP on
only where it finds an accelerator, and trains with plain DDP otherwise."""

from __future__ import annotations

import sys

from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from cskd_hf.cli import main
from cskd_hf.training import align, loop


def make_sharding_accelerator(settings) -> Accelerator:
    """That of the settings, told that it is one of FSDP2."""
    accelerator = loop.make_accelerator(settings)
    for state in (PartialState, AcceleratorState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        state_dict_type="SHARDED_STATE_DICT",
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )
    if settings.mixed_precision != "no":
        plugin.set_mixed_precision(settings.mixed_precision)  # as Accelerate does
    AcceleratorState._shared_state["fsdp_plugin"] = plugin
    return accelerator


if __name__ == "__main__":
    align.make_accelerator = make_sharding_accelerator
    sys.exit(main(["align", *sys.argv[1:]]))
