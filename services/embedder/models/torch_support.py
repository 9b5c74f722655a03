"""What the torch models share: device, precision, files of weights, and fingerprints."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from services.embedder.models.base import ModelError
from services.embedder.settings import EmbedderSettings

__all__ = ["Placement", "check_sha256", "choose_placement", "fingerprint", "load_state", "parameter_count"]

SMALL_MODEL_PARAMETERS: Final = 30_000_000
"""A model with fewer parameters computes in float32 unless told otherwise: bfloat16 gains it nothing."""
_BF16_CPU_FLAGS: Final = frozenset({"amx_bf16", "avx512_bf16"})
_BF16_CUDA_CAPABILITY: Final = 8
_FINGERPRINT_CHARACTERS: Final = 32
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and in what a model computes.

    Attributes:
        device: For torch.
        dtype: For torch; float32 or bfloat16.
        device_name: For people, such as `cuda:0 (NVIDIA H200)`.
    """

    device: torch.device
    dtype: torch.dtype
    device_name: str

    @property
    def precision(self) -> str:
        """Such as bfloat16."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def on_cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"


def choose_placement(settings: EmbedderSettings, parameters: int) -> Placement:
    """Where a model of so many parameters computes by the settings; also sets torch's number of threads.

    Raises:
        ModelError: the device is not there, or does not compute in the precision asked for.
    """
    torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
    device = _device(settings.device)
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"
    supported = _has_bfloat16(device)
    if settings.precision == "bfloat16":
        if not supported and device.type == "cuda":
            raise ModelError(f"{name} does not compute in bfloat16; set SACCADE_EMBEDDER_PRECISION=float32")
        return Placement(device, torch.bfloat16, name)
    large = parameters >= SMALL_MODEL_PARAMETERS
    use_bfloat16 = settings.precision == "auto" and supported and large
    return Placement(device, torch.bfloat16 if use_bfloat16 else torch.float32, name)


def parameter_count(model: nn.Module) -> int:
    """How many numbers a model holds."""
    return sum(parameter.numel() for parameter in model.parameters())


def fingerprint(model: nn.Module, config: Mapping[str, Any]) -> str:
    """Hash of a model's weights as float32 and of its configuration; to be taken before the model is moved or cast."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\n{name}{list(tensor.shape)}".encode())
        values = tensor.detach().cpu()
        values = values.float() if values.is_floating_point() else values.long()
        digest.update(values.contiguous().numpy().data)
    return digest.hexdigest()[:_FINGERPRINT_CHARACTERS]


def check_sha256(path: Path, expected: str) -> None:
    """ModelError unless the file is there and its SHA-256 is the expected one; an empty one is not checked."""
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    if not expected:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    if digest.hexdigest() != expected.lower():
        raise ModelError(
            f"{path} has the SHA-256 {digest.hexdigest()}, but the setting says {expected}: it is another file"
        )


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a .safetensors file, or from a .pth or .pt file that holds nothing but tensors.

    Raises:
        ModelError: no such file, or it holds something else.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415 - only where such a file is read

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    # torch and safetensors raise nearly anything on a file that is none of theirs.
    except Exception as exc:
        raise ModelError(f"{path} holds no weights that can be read: {exc}") from exc
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path} holds no weights by name")
    return state


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as exc:
        raise ModelError(f"SACCADE_EMBEDDER_DEVICE={wanted!r} is no device; use auto, cpu, cuda or cuda:N") from exc
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ModelError(f"SACCADE_EMBEDDER_DEVICE={wanted!r} is not supported; use auto, cpu, cuda or cuda:N")
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise ModelError(
            f"SACCADE_EMBEDDER_DEVICE={wanted!r}: there are {torch.cuda.device_count()} such devices; use cpu or auto"
        )
    return torch.device("cuda", index)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= _BF16_CUDA_CAPABILITY
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    line = next((line for line in flags.splitlines() if line.startswith("flags")), "")
    return not _BF16_CPU_FLAGS.isdisjoint(line.split())
