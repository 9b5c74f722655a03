"""Train the demo CLIP: `python -m demo.train_clip`. An open_clip model, loaded by open_clip's own loader."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import open_clip
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from demo.captions import scene_caption
from demo.clip_data import ClipBatch, Images, draw_pool
from demo.gallery_plan import plan_scenes
from demo.scenes import draw, pick_background, sample_spec

__all__ = ["CONFIGS", "contrastive_loss", "main", "pair_loss", "train"]

IMAGE_SIDE: Final = 112
TEXT_CFG: Final = {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2}


def _convolutional(name: str) -> dict[str, Any]:
    """A small vision tower from timm, untrained, in open_clip's class."""
    vision = {"timm_model_name": name, "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": ""}
    return {"embed_dim": 128, "vision_cfg": vision | {"image_size": IMAGE_SIDE}, "text_cfg": TEXT_CFG}


CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "mobilenet": _convolutional("mobilenetv4_conv_small_050"),
    "resnet": _convolutional("resnet10t"),
    "vit": {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": IMAGE_SIDE,
            "patch_size": 16,
            "width": 128,
            "layers": 4,
            "head_width": 64,
        },
        "text_cfg": TEXT_CFG,
    },
}
"""Architectures that were tried, in open_clip's own terms."""
PREPROCESS_CFG: Final = {
    "size": IMAGE_SIDE,
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}
PAIR_WEIGHT: Final = 0.3
"""How much nearness of pictures of the same objects counts beside nearness of pictures and captions."""
WARMUP: Final = 0.04
"""The part of training in which the learning rate rises."""
MAX_LOGIT_SCALE: Final = math.log(100)
WEIGHT_DECAY: Final = 0.05


@dataclass(frozen=True, slots=True)
class Budget:
    """Training ends after `steps`, or after `seconds` if that comes first."""

    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Validation:
    """Held-out scenes, one caption each: `images` (n, side, side, 3) uint8, `captions` n strings."""

    images: Images
    captions: list[str]


def write_config(out: Path, architecture: str) -> None:
    """Write what open_clip's `local-dir:` loader reads."""
    out.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": CONFIGS[architecture], "preprocess_cfg": PREPROCESS_CFG}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def draw_validation(seed: int, count: int = 200) -> Validation:
    """Held-out scenes other than those of the gallery."""
    rng = np.random.default_rng(seed)
    images, captions = [], []
    for planned in plan_scenes(rng, count):
        background = pick_background(rng, [planned.colour]) if planned.colour else pick_background(rng)
        spec = sample_spec(rng, planned.names, background)
        caption = scene_caption(rng, spec.centres, background.colour, name_colour=planned.colour is not None)
        images.append(np.asarray(draw(spec, 512)[0].resize((IMAGE_SIDE, IMAGE_SIDE))))
        captions.append(caption.text)
    return Validation(np.stack(images), captions)


def normalised(images: Images) -> Tensor:
    """(n, side, side, 3) bytes to (n, 3, side, side) floats in [-1, 1], channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def relit(rng: np.random.Generator, pixels: Tensor) -> Tensor:
    """Pictures with a little more or less contrast and light, each its own."""
    gain = torch.from_numpy(rng.uniform(0.9, 1.1, (len(pixels), 1, 1, 1)).astype(np.float32))
    offset = torch.from_numpy(rng.uniform(-0.08, 0.08, (len(pixels), 1, 1, 1)).astype(np.float32))
    return pixels.mul_(gain).add_(offset).clamp_(-1, 1)


def contrastive_loss(logits: Tensor, batch: ClipBatch) -> Tensor:
    """CLIP's symmetric loss over (n, n) logits (pictures x captions), without false negatives.

    A caption that happens to be true of another picture of the batch is no negative of it.
    """
    missing = torch.from_numpy(1 - batch.shows) @ torch.from_numpy(batch.says).T
    also_true = (missing == 0) & ~torch.eye(len(logits), dtype=torch.bool)
    logits = logits.masked_fill(also_true, -torch.inf)
    targets = torch.arange(len(logits))
    return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2


def pair_loss(logits: Tensor, batch: ClipBatch) -> Tensor:
    """The same between pictures: each should be nearest to the other one of its pair, (n, n) logits.

    Further pictures of the same objects are no negatives.
    """
    subjects = torch.from_numpy(batch.subjects)
    counts = subjects.sum(dim=1)
    same = ((subjects @ subjects.T) == counts) & (counts[:, None] == counts)
    partners = torch.arange(len(logits)) ^ 1
    same[torch.arange(len(logits)), partners] = False
    return functional.cross_entropy(logits.masked_fill(same, -torch.inf), partners)


def optimiser(model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """AdamW; no decay for vectors, scalars and embeddings."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (plain if parameter.ndim < 2 or "embedding" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))


def rate(progress: float) -> float:
    """Linear warm-up, then a cosine down to nought; `progress` in [0, 1]."""
    if progress < WARMUP:
        return max(progress / WARMUP, 0.02)
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


@torch.inference_mode()
def recall(model: Any, tokenizer: Any, validation: Validation) -> dict[int, float]:
    """Text-to-image recall at 1, 5 and 10: the part of captions whose own scene is among the first k."""
    model.eval()
    pictures = torch.cat(
        [model.encode_image(normalised(part), normalize=True) for part in np.array_split(validation.images, 4)]
    )
    texts = model.encode_text(tokenizer(validation.captions), normalize=True)
    model.train()
    scores = texts @ pictures.T
    ranks = (scores > scores.diagonal()[:, None]).sum(dim=1)
    return {k: float((ranks < k).float().mean()) for k in (1, 5, 10)}


def train(
    model: Any,
    tokenizer: Any,
    batches: Iterator[ClipBatch],
    validation: Validation,
    *,
    budget: Budget,
    learning_rate: float,
    seed: int,
) -> Tensor:
    """Train in place. Returns a flag for each row of the token table: whether training ever used it."""
    rng = np.random.default_rng(seed)
    stepper = optimiser(model, learning_rate)
    used = torch.zeros(TEXT_CFG["vocab_size"], dtype=torch.bool)
    start = time.monotonic()
    step, progress = 0, 0.0
    model.train()
    while progress < 1:
        for group in stepper.param_groups:
            group["lr"] = learning_rate * rate(progress)
        batch = next(batches)
        tokens = tokenizer(batch.captions)
        used[tokens.unique()] = True
        with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            pictures, texts, scale = model(relit(rng, normalised(batch.images)), tokens)[:3]
        pictures, texts = pictures.float(), texts.float()
        loss = contrastive_loss(scale * pictures @ texts.T, batch)
        loss = loss + PAIR_WEIGHT * pair_loss(scale * pictures @ pictures.T, batch)
        stepper.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        stepper.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        step += 1
        elapsed = time.monotonic() - start
        progress = max(step / budget.steps, elapsed / budget.seconds)
        if step % 100 == 0 or progress >= 1:
            figures = " ".join(f"r@{k} {v:.3f}" for k, v in recall(model, tokenizer, validation).items())
            typer.echo(f"step {step} {elapsed:.0f} s loss {loss.item():.3f} scale {scale.item():.1f} {figures}")
    return used


def save(model: nn.Module, used: Tensor, out: Path) -> None:
    """Write the weights in 16 bits. Token rows that training never used are nought: they say nothing.

    The token table, four fifths of all numbers, takes 8 bits: text vectors move by less than 0.0002 in cosine.
    """
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    table = state.pop("token_embedding.weight")
    table[~used] = 0
    small = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    small["token_embedding.weight"] = table.to(torch.float8_e4m3fn)
    save_file({k: v.contiguous() for k, v in small.items()}, out / "open_clip_model.safetensors")


def main(
    *,
    out: Annotated[Path, typer.Option(help="Folder for configuration and weights.")] = Path("demo/models/clip"),
    architecture: Annotated[str, typer.Option(help="A key of CONFIGS.")] = "vit",
    steps: Annotated[int, typer.Option(help="Training steps.")] = 2_300,
    minutes: Annotated[float, typer.Option(help="Stop training after this time at the latest.")] = 27.0,
    batch_size: Annotated[int, typer.Option()] = 128,
    learning_rate: Annotated[float, typer.Option()] = 2e-3,
    scenes: Annotated[int, typer.Option(help="Whole scenes in the training pool.")] = 24_000,
    crop_scenes: Annotated[int, typer.Option(help="Scenes whose objects are cut out for training.")] = 2_500,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    seed: Annotated[int, typer.Option()] = 7,
) -> None:
    """Draw the training pool, train, and write configuration and weights."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    start = time.monotonic()
    pool = draw_pool(seed, scenes, crop_scenes, IMAGE_SIDE)
    typer.echo(f"{len(pool.items)} pictures drawn in {time.monotonic() - start:.0f} s")
    write_config(out, architecture)
    name = f"local-dir:{out}"
    model = open_clip.create_model(name, load_weights=False).to(memory_format=torch.channels_last)
    tokenizer = open_clip.get_tokenizer(name)
    used = train(
        model,
        tokenizer,
        pool.batches(np.random.default_rng(seed), batch_size),
        draw_validation(seed + 1),
        budget=Budget(steps, minutes * 60),
        learning_rate=learning_rate,
        seed=seed,
    )
    save(model, used, out)
    typer.echo(f"wrote {out} after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    typer.run(main)
