"""Train the demo SAM: `python -m demo.train_sam`. segment_anything's own classes, small."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import torch
import typer
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional

from demo.gallery_plan import plan_scenes
from demo.glyphs import glyph_names
from demo.sam_data import PADDING, SamExample, draw_example, draw_sam_pool, make_prompts
from demo.scenes import pick_background, sample_spec
from services.embedder.models.sam_architecture import SamConfig, build_sam

__all__ = ["CONFIG", "decode", "main", "mask_losses", "train"]

CONFIG: Final = SamConfig(
    encoder_dim=128,
    encoder_depth=6,
    encoder_heads=4,
    global_attention_indexes=(1, 3, 5),
    image_size=128,
    patch_size=8,
    window_size=8,
    prompt_embed_dim=96,
    decoder_heads=4,
    decoder_mlp_dim=256,
    iou_head_hidden_dim=96,
)
ENTROPY_WEIGHT: Final = 4.0
ALL_MASKS_WEIGHT: Final = 0.05
"""How much the masks count that are not the best of the three, so that none is left untrained."""
HINT_WEIGHT: Final = 0.5
CODE_WEIGHT: Final = 6.0
CODE_FREQUENCIES: Final = (math.pi / 2, math.pi, 2 * math.pi)
CODE_SIZE: Final = 4 * len(CODE_FREQUENCIES)
ENCODER_ALONE: Final = 0.35
"""The part of training in which only the image encoder learns, from hints."""
SAVE_EVERY: Final = 500
WARMUP: Final = 0.03
WEIGHT_DECAY: Final = 0.02
GRADIENT_NORM: Final = 2.0


def _prompt_tokens(sam: Sam, examples: list[SamExample]) -> Tensor:
    """The tokens of all prompts (n, k, c): the points of every picture, then, with one-point prompts, the boxes."""
    points = torch.from_numpy(np.concatenate([x.prompts.points for x in examples]))
    signs = torch.from_numpy(np.concatenate([x.prompts.point_labels for x in examples]))
    tokens: Tensor = sam.prompt_encoder(points=(points, signs), boxes=None, masks=None)[0]
    if points.shape[1] > 1:
        return tokens
    boxes = torch.from_numpy(np.concatenate([x.prompts.boxes for x in examples]))
    return torch.cat([tokens, sam.prompt_encoder(points=None, boxes=boxes, masks=None)[0]])


def _targets(examples: list[SamExample], prompts: int, cells: int) -> tuple[Tensor, Tensor]:
    """For the first `prompts` prompts, in the order of `_prompt_tokens`: the index of the picture (n), and
    what is asked for as the covered part of each cell of the mask grid (n, cells, cells)."""
    points = len(examples[0].prompts.points)
    order = [(i, k) for i, x in enumerate(examples) for k in x.prompts.targets[:points]]
    order += [(i, k) for i, x in enumerate(examples) for k in x.prompts.targets[points:]]
    masks = np.stack([examples[i].labels == k for i, k in order[:prompts]])
    owners = torch.tensor([i for i, _ in order[:prompts]])
    return owners, functional.adaptive_avg_pool2d(torch.from_numpy(masks).float(), cells)


def decode(sam: Sam, embeddings: Tensor, tokens: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """`MaskDecoder.predict_masks` for prompts of several pictures at once.

    `embeddings` (pictures, c, h, w), prompt `tokens` (n, k, c), `owners` (n) the index of each prompt's
    picture. Returns logits (n, 4, 4h, 4w), the first mask meant to stand alone, and predicted IoU (n, 4).
    """
    decoder = sam.mask_decoder
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    queries = torch.cat([outputs.expand(len(tokens), -1, -1), tokens], dim=1)
    source = embeddings[owners] + sam.prompt_encoder.no_mask_embed.weight[..., None, None]
    positions = sam.prompt_encoder.get_dense_pe().expand_as(source)
    answers, keys = decoder.transformer(source, positions, queries)
    upscaled = decoder.output_upscaling(keys.transpose(1, 2).reshape(source.shape))
    weights = [mlp(answers[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    masks = torch.einsum("nmc,nchw->nmhw", torch.stack(weights, dim=1), upscaled)
    return masks.float(), decoder.iou_prediction_head(answers[:, 0]).float()


def mask_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy plus dice loss of each mask: logits (n, m, h, w), targets (n, h, w) in [0, 1]; returns (n, m)."""
    wanted = targets[:, None].expand_as(logits)
    chances = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    overlap = 2 * (chances * wanted).sum(dim=(2, 3)) + 1
    dice = 1 - overlap / (chances.sum(dim=(2, 3)) + wanted.sum(dim=(2, 3)) + 1)
    return ENTROPY_WEIGHT * entropy.mean(dim=(2, 3)) + dice


def true_ious(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of each thresholded mask with its target: (n, m)."""
    found, wanted = logits > 0, targets[:, None] > 0.5
    return (found & wanted).sum(dim=(2, 3)) / (found | wanted).sum(dim=(2, 3)).clamp(min=1)


class Hints(nn.Module):
    """A training aid that is not saved: embeddings should tell what is object, which, and where its middle is.

    One linear map from each cell's embedding to a logit of being object, a code of the middle of its object, and
    logits of the objects' names. The codes are sines and cosines, so that products of two embeddings can tell
    whether two cells are of one object; names tell the same, for no name occurs twice in a scene.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.map = nn.Conv2d(channels, 1 + CODE_SIZE + len(glyph_names()), kernel_size=1)

    def forward(self, embeddings: Tensor, examples: list[SamExample]) -> Tensor:
        """The mean error of the hints for embeddings (n, c, h, w)."""
        presence, codes, names = self.map(embeddings).split([1, CODE_SIZE, len(glyph_names())], dim=1)
        wanted = [cell_facts(x.labels, x.names, embeddings.shape[-1]) for x in examples]
        objects = torch.stack([numbers for numbers, _, _ in wanted]) > 0
        wanted_codes = torch.stack([code for _, code, _ in wanted])
        wanted_names = torch.stack([name for _, _, name in wanted])
        code_errors = (codes.permute(0, 2, 3, 1)[objects] - wanted_codes[objects]).square()
        error: Tensor = (
            functional.binary_cross_entropy_with_logits(presence[:, 0], objects.float())
            + CODE_WEIGHT * code_errors.mean()
            + functional.cross_entropy(names.permute(0, 2, 3, 1)[objects], wanted_names[objects])
        )
        return error


def cell_facts(labels: np.ndarray, names: np.ndarray, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each cell of the embedding its object's number or 0 (h, w), code (h, w, CODE_SIZE) and name (h, w)."""
    stride = len(labels) // cells
    numbers = labels[stride // 2 :: stride, stride // 2 :: stride].astype(np.int64)
    numbers[numbers == PADDING] = 0
    codes = np.zeros((1 + len(names), CODE_SIZE), np.float32)
    for number in set(np.unique(numbers).tolist()) - {0}:
        rows, columns = np.nonzero(labels == number)
        middle = np.array([columns.mean(), rows.mean()]) / len(labels) * 2 - 1
        angles = np.outer(CODE_FREQUENCIES, middle).ravel()
        codes[number] = np.concatenate([np.sin(angles), np.cos(angles)])
    known = np.concatenate([[0], names]).astype(np.int64)
    return torch.from_numpy(numbers), torch.from_numpy(codes[numbers]), torch.from_numpy(known[numbers])


def hint_loss(sam: Sam, hints: Hints, examples: list[SamExample]) -> Tensor:
    """The loss of the image encoder alone."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = embed(sam, [x.image for x in examples])
    aid: Tensor = hints(embeddings.float(), examples)
    return aid


def batch_loss(sam: Sam, hints: Hints, examples: list[SamExample]) -> Tensor:
    """The mean loss over all prompts of a batch: single mask, best of three, predicted IoU, and hints."""
    tokens = _prompt_tokens(sam, examples)
    owners, targets = _targets(examples, len(tokens), sam.image_encoder.img_size // 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = embed(sam, [x.image for x in examples])
        logits, scores = decode(sam, embeddings, tokens, owners)
    losses = mask_losses(logits, targets)
    several = losses[:, 1:].amin(dim=1) + ALL_MASKS_WEIGHT * losses[:, 1:].mean(dim=1)
    quality = functional.mse_loss(scores, true_ious(logits.detach(), targets))
    aid: Tensor = hints(embeddings.float(), examples)
    return (losses[:, 0] + several).mean() + quality + HINT_WEIGHT * aid


def embed(sam: Sam, images: list[np.ndarray]) -> Tensor:
    """Embeddings (n, c, h, w) of square inputs (side, side, 3)."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    normalised = (pixels - sam.pixel_mean) / sam.pixel_std
    embeddings: Tensor = sam.image_encoder(normalised)
    return embeddings


def draw_validation(seed: int, count: int = 48) -> list[SamExample]:
    """Held-out scenes, other than those of the gallery, with one random point for each of some objects."""
    rng = np.random.default_rng(seed)
    examples = []
    for planned in plan_scenes(rng, count):
        spec = sample_spec(rng, planned.names, pick_background(rng))
        image, labels, names = draw_example(spec, CONFIG.image_size)
        examples.append(SamExample(image, labels, names, make_prompts(rng, labels)))
    return examples


@torch.inference_mode()
def validate(sam: Sam, examples: list[SamExample]) -> str:
    """Mean IoU of the mask with the best predicted IoU, by kind of prompt, and the error of that prediction."""
    sam.eval()
    tokens = _prompt_tokens(sam, examples)
    owners, targets = _targets(examples, len(tokens), sam.image_encoder.img_size // 2)
    logits, scores = decode(sam, embed(sam, [x.image for x in examples]), tokens, owners)
    ious = true_ious(logits, targets)
    best = ious.gather(1, 1 + scores[:, 1:].argmax(dim=1, keepdim=True))[:, 0]
    points = np.array([x.prompts.targets[: len(x.prompts.points)] for x in examples]).ravel()
    ground = torch.from_numpy(points == 0)
    of_points, of_boxes = best[: len(points)], best[len(points) :]
    sam.train()
    return (
        f"iou object {of_points[~ground].mean():.3f} background {of_points[ground].mean():.3f} "
        f"box {of_boxes.mean():.3f} iou error {(scores - ious).abs().mean():.3f}"
    )


def rate(progress: float) -> float:
    """Linear warm-up, then a cosine down to nought; `progress` in [0, 1]."""
    if progress < WARMUP:
        return max(progress / WARMUP, 0.02)
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


def train(
    sam: Sam,
    batches: Iterator[list[SamExample]],
    validation: list[SamExample],
    *,
    steps: int,
    seconds: float,
    learning_rate: float,
    encoder_alone: float,
    out: Path,
) -> None:
    """Train in place for `steps`, or for `seconds` if that comes first; write to `out` now and then.

    `encoder_alone`: the part of training in which only the image encoder learns, from hints.
    """
    hints = Hints(sam.mask_decoder.transformer_dim)
    parameters = [*sam.parameters(), *hints.parameters()]
    stepper = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=WEIGHT_DECAY)
    start = time.monotonic()
    step, progress = 0, 0.0
    sam.train()
    while progress < 1:
        for group in stepper.param_groups:
            group["lr"] = learning_rate * rate(progress)
        if progress < encoder_alone:
            loss = hint_loss(sam, hints, next(batches) + next(batches))
        else:
            loss = batch_loss(sam, hints, next(batches))
        stepper.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
        stepper.step()
        step += 1
        elapsed = time.monotonic() - start
        progress = max(step / steps, elapsed / seconds)
        if step % 100 == 0 or progress >= 1:
            typer.echo(f"step {step} {elapsed:.0f} s loss {loss.item():.3f} {validate(sam, validation)}")
        if step % SAVE_EVERY == 0:
            save(sam, out)


def save(sam: Sam, out: Path) -> None:
    """Write configuration and half-precision weights."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(asdict(CONFIG), indent=2) + "\n", encoding="utf-8")
    halves = {name: value.detach().half().contiguous() for name, value in sam.state_dict().items()}
    save_file(halves, out / "model.safetensors")


def main(
    *,
    out: Annotated[Path, typer.Option(help="Folder for configuration and weights.")] = Path("demo/models/sam"),
    steps: Annotated[int, typer.Option(help="Training steps.")] = 5_800,
    minutes: Annotated[float, typer.Option(help="Stop training after this time at the latest.")] = 27.0,
    batch_size: Annotated[int, typer.Option()] = 4,
    learning_rate: Annotated[float, typer.Option()] = 1e-3,
    scenes: Annotated[int, typer.Option(help="Scenes in the training pool.")] = 10_000,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    start_from: Annotated[
        Path | None, typer.Option(help="Folder of an earlier run, whose weights to go on with.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 11,
) -> None:
    """Draw the training pool, train, and write configuration and weights."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    start = time.monotonic()
    pool = draw_sam_pool(seed, scenes, CONFIG.image_size)
    typer.echo(f"{len(pool.images)} pictures drawn in {time.monotonic() - start:.0f} s")
    sam = build_sam(CONFIG)
    if start_from is not None:
        sam.load_state_dict(load_file(start_from / "model.safetensors"))
    batches = pool.batches(np.random.default_rng(seed), batch_size)
    train(
        sam,
        batches,
        draw_validation(seed + 1),
        steps=steps,
        seconds=minutes * 60,
        learning_rate=learning_rate,
        encoder_alone=ENCODER_ALONE if start_from is None else 0.0,
        out=out,
    )
    save(sam, out)
    typer.echo(f"wrote {out} after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    typer.run(main)
