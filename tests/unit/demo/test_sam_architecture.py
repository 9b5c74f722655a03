import pytest
import torch
from segment_anything import sam_model_registry

from services.embedder.models.sam_architecture import SAM_CONFIGS, build_sam


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_state_equals_upstream_in_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        ours, upstream = build_sam(SAM_CONFIGS[name]), sam_model_registry[name](checkpoint=None)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in upstream.state_dict().items()}
    assert not ours.training
    assert ours.image_encoder.img_size == upstream.image_encoder.img_size
    assert ours.prompt_encoder.input_image_size == upstream.prompt_encoder.input_image_size
    assert ours.prompt_encoder.image_embedding_size == upstream.prompt_encoder.image_embedding_size
    for block, other in zip(ours.image_encoder.blocks, upstream.image_encoder.blocks, strict=True):
        assert block.window_size == other.window_size
        assert block.attn.num_heads == other.attn.num_heads
