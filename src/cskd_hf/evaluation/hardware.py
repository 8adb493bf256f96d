"""What figures of time and the last bits of others depend on."""

from __future__ import annotations

import torch


def device_name(device: torch.device) -> str:
    """Of a GPU its name; of a CPU the number of threads that are used of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"
