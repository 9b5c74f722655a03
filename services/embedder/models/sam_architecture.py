"""segment_anything's classes at any size, from one table: the three that Meta trained, and small ones.

`segment_anything.build_sam` writes its sizes into its functions; this module says the same as data, so
that the demo's small model and the large ones are built, loaded and run by one code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

__all__ = ["PIXEL_MEAN", "PIXEL_STD", "SAM_CONFIGS", "SamConfig", "build_sam"]

PIXEL_MEAN: Final = (123.675, 116.28, 103.53)
"""RGB mean in [0, 255] that `Sam.preprocess` subtracts."""
PIXEL_STD: Final = (58.395, 57.12, 57.375)
"""RGB standard deviation that `Sam.preprocess` divides by."""


@dataclass(frozen=True, slots=True)
class SamConfig:
    """The sizes of one SAM. Defaults are what Meta's three models share.

    `image_size`: side of the square input in pixels, a multiple of `patch_size`. Embeddings and masks have
    `image_size / patch_size` and four times as many cells a side. `global_attention_indexes`: encoder blocks
    that see everything; the others see windows of `window_size` x `window_size` patches.
    `prompt_embed_dim`: width of embeddings, prompts and mask decoder, a multiple of `decoder_heads` x 2 and of 8.
    """

    encoder_dim: int
    encoder_depth: int
    encoder_heads: int
    global_attention_indexes: tuple[int, ...]
    image_size: int = 1024
    patch_size: int = 16
    encoder_mlp_ratio: float = 4.0
    window_size: int = 14
    prompt_embed_dim: int = 256
    mask_in_channels: int = 16
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    multimask_outputs: int = 3
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256

    @property
    def embedding_size(self) -> int:
        """Side of the grid of image embeddings."""
        return self.image_size // self.patch_size


SAM_CONFIGS: Final[Mapping[str, SamConfig]] = {
    "vit_b": SamConfig(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": SamConfig(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": SamConfig(1280, 32, 16, (7, 15, 23, 31)),
}
"""The sizes of `segment_anything.sam_model_registry`."""


def _image_encoder(config: SamConfig) -> ImageEncoderViT:
    return ImageEncoderViT(
        depth=config.encoder_depth,
        embed_dim=config.encoder_dim,
        img_size=config.image_size,
        mlp_ratio=config.encoder_mlp_ratio,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=config.encoder_heads,
        patch_size=config.patch_size,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=config.global_attention_indexes,
        window_size=config.window_size,
        out_chans=config.prompt_embed_dim,
    )


def _prompt_encoder(config: SamConfig) -> PromptEncoder:
    return PromptEncoder(
        embed_dim=config.prompt_embed_dim,
        image_embedding_size=(config.embedding_size, config.embedding_size),
        input_image_size=(config.image_size, config.image_size),
        mask_in_chans=config.mask_in_channels,
    )


def _mask_decoder(config: SamConfig) -> MaskDecoder:
    return MaskDecoder(
        num_multimask_outputs=config.multimask_outputs,
        transformer=TwoWayTransformer(
            depth=config.decoder_depth,
            embedding_dim=config.prompt_embed_dim,
            mlp_dim=config.decoder_mlp_dim,
            num_heads=config.decoder_heads,
        ),
        transformer_dim=config.prompt_embed_dim,
        iou_head_depth=config.iou_head_depth,
        iou_head_hidden_dim=config.iou_head_hidden_dim,
    )


def build_sam(config: SamConfig) -> Sam:
    """A SAM of segment_anything's own classes with random weights, in evaluation mode."""
    sam = Sam(
        image_encoder=_image_encoder(config),
        prompt_encoder=_prompt_encoder(config),
        mask_decoder=_mask_decoder(config),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )
    return sam.eval()
