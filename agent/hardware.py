"""The machine: its devices, its fast number formats, and the settings of its memory allocator."""

import ctypes
import os
import platform
import re
from functools import cache
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]


def usable_device(name: str) -> torch.device:
    """The device called "cpu", "cuda", "cuda:1", "mps", ..., or with "auto" the best one here: cuda, mps, cpu. For a rank of
    torchrun "auto" and "cuda" mean the card of its own number. Raises ValueError where this machine has none or torch cannot
    use it."""
    chosen = name
    if name == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if chosen == "cuda" and os.environ.get("WORLD_SIZE", "1") != "1":
        chosen = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(chosen)
        torch.empty(0, device=device)   # fails where the driver or the card is missing
    except (RuntimeError, AssertionError) as error:
        cards = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        others = ", ".join(["cpu", *(["mps"] if torch.backends.mps.is_available() else []), *cards])
        meant = f" (of {chosen})" if chosen != name else ""
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r}{meant} cannot be used here ({reason}); there is {others}") from None
    return device


def device_words(device: torch.device) -> str:
    """What a person calls it: "cpu, 2 threads, bf16" or "cuda:0, NVIDIA H200, bf16"."""
    threads = torch.get_num_threads()
    what = {"cuda": lambda: torch.cuda.get_device_name(device), "cpu": lambda: f"{threads} thread{'s' * (threads > 1)}"}
    parts = [str(device), *([what[device.type]()] if device.type in what else [])]
    return ", ".join([*parts, "bf16" if has_fast_bf16(device) else "fp32"])


# bf16 matrix products per second of whole cards, without sparsity, by words of their name: the makers' data sheets.
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "GH200": 990e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12,
              "A100": 312e12, "A40": 150e12, "A10": 125e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12,
              "RTX 3090": 71e12}
OTHER_CARDS = "Ti|D|Laptop"      # words behind a name with which it is another card


def peak_flops(device: torch.device) -> float | None:
    """bf16 matrix products per second that the maker gives for a known card; None for others and for CPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for words, flops in PEAK_FLOPS.items() if re.search(rf"\b{words}\b(?! ({OTHER_CARDS})\b)", name)), None)


@cache
def has_amx() -> bool:
    """True on CPUs with Intel's matrix tiles."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def has_fast_bf16(device: torch.device) -> bool:
    """True where bf16 matrix multiplication is done in hardware; emulation is slower than fp32."""
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return has_amx() or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def uses_bf16(device: torch.device, precision: Precision) -> bool:
    """Whether 'auto' or the choice itself means bf16."""
    return precision == "bf16" or (precision == "auto" and has_fast_bf16(device))


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Context in which matrix multiplications run in bf16; 'auto' decides by the hardware."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(device, precision))


def acting_dtype(device: torch.device, precision: Precision) -> torch.dtype:
    """Format of weights and cache when acting; the same rule as `autocast`."""
    return torch.bfloat16 if uses_bf16(device, precision) else torch.float32


def keep_freed_memory() -> None:
    """Tell glibc to reuse large freed blocks instead of giving each back to the kernel.

    Every training step frees and allocates the same hundred MB; by default that costs 8,000 to 83,000 page faults a step.
    Measured: 1.3 to 1.5 times the tokens per second. No effect outside Linux with glibc.
    """
    if libc := glibc():
        m_trim_threshold, m_mmap_threshold = -1, -3   # malloc.h
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def return_freed_memory() -> None:
    """Give freed blocks back to the kernel, as at checkpoints: freed heap memory fragments over time."""
    if libc := glibc():
        libc.malloc_trim(0)


def round_up_to_bucket(size: int) -> int:
    """The next of eight sizes per power of two, at most an eighth larger.

    CPU kernels are compiled per shape, and freed memory is reused only where shapes recur: a dimension that differs from batch
    to batch (its targets, its picture patches) slows training down more and more. Measured on two cores: from 20,000 to 14,000
    tokens/s over the first 1,400 steps of the demo, and no slowdown with padding to these sizes.
    """
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step


@cache
def glibc() -> ctypes.CDLL | None:
    """The C library whose allocator is tuned here, or None on another system."""
    return ctypes.CDLL("libc.so.6") if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc" else None
