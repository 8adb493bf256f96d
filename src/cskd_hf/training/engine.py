"""What Accelerate's engines ask for beyond one process: the settings of FSDP2 and DeepSpeed that fit this loop."""

from __future__ import annotations

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType

from .settings import LoopSettings, SettingsError
from .trackers import check_trackers


def make_accelerator(settings: LoopSettings) -> Accelerator:
    """Accelerate's engine for these settings.

    Raises:
        SettingsError: the launch configuration asks for what the loop does not support, or a tracker is not installed.
    """
    check_trackers(settings.trackers)
    accelerator = Accelerator(
        cpu=settings.cpu,
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        log_with=settings.trackers or None,
        project_dir=settings.output_dir,
        # Encoders may own layers that no loss reaches, e.g. a pooler that is not used.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    fit_engine(accelerator, settings)
    return accelerator


def fit_engine(accelerator: Accelerator, settings: LoopSettings) -> None:
    """Check what the launch configuration says of FSDP or DeepSpeed, and add what the loop's settings say.

    Raises:
        SettingsError: see `make_accelerator`.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        _fit_fsdp2(accelerator)
    elif accelerator.distributed_type == DistributedType.DEEPSPEED:
        _fit_deepspeed(accelerator, settings)


def _fit_fsdp2(accelerator: Accelerator) -> None:
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise SettingsError(f"fsdp_version={plugin.fsdp_version} is not supported; set fsdp_version: 2.")
    if plugin.cpu_ram_efficient_loading:
        # Accelerate hands the first process' weights to the others only for what is sharded: references are not.
        raise SettingsError(
            "fsdp_cpu_ram_efficient_loading would leave the frozen encoders of all processes but the first without "
            "weights; set fsdp_cpu_ram_efficient_loading: false."
        )
    if accelerator.mixed_precision != "no":
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # The loop's autocast chooses what is computed in half precision, as without FSDP. Half-precision weights would
        # not fit the float32 statistics of batch norms, and would round targets and losses on their way in and out.
        plugin.mixed_precision_policy = MixedPrecisionPolicy(cast_forward_inputs=False)


def _fit_deepspeed(accelerator: Accelerator, settings: LoopSettings) -> None:
    plugin = accelerator.state.deepspeed_plugin
    config = plugin.deepspeed_config
    if plugin.zero_stage == 3:
        raise SettingsError("DeepSpeed ZeRO-3 is not supported: use ZeRO-2, or FSDP2, which shards weights as well.")
    if accelerator.mixed_precision != "no":
        raise SettingsError(
            f"mixed_precision={accelerator.mixed_precision} is not supported under DeepSpeed, whose half-precision "
            "engines keep and save half-precision weights; use mixed_precision: 'no', or plain multi-process training."
        )
    # DeepSpeed wants to know these itself; it clips gradients in its own step.
    config["train_micro_batch_size_per_gpu"] = settings.batch_size
    config["gradient_accumulation_steps"] = settings.gradient_accumulation_steps
    config["gradient_clipping"] = settings.max_grad_norm
