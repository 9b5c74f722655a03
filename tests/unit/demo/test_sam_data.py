import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam

from demo.holdout import held_out
from demo.sam_data import PADDING, SamExample, draw_example, fitted, make_prompts
from demo.scenes import training_spec
from demo.train_sam import cell_facts, decode, mask_losses, true_ious
from services.embedder.models.sam_architecture import SamConfig, build_sam

TINY = SamConfig(
    16, 1, 2, (0,), image_size=32, patch_size=8, window_size=4, prompt_embed_dim=16, decoder_heads=2, decoder_mlp_dim=16
)


def example(seed: int, side: int = 64) -> SamExample:
    rng = np.random.default_rng(seed)
    image, labels, names = draw_example(training_spec(rng, held_out()), side)
    return SamExample(image, labels, names, make_prompts(rng, labels))


def test_fitted_keeps_the_aspect() -> None:
    assert fitted(Image.new("RGB", (400, 300)), 64).size == (64, 48)


def test_prompts_lie_in_what_they_ask_for() -> None:
    for seed in range(8):
        made = example(seed)
        points = made.prompts.points[:, 0].astype(int)
        targets = made.prompts.targets[: len(points)]
        assert [int(made.labels[y, x]) for x, y in points] == targets.tolist()
        assert PADDING not in made.prompts.targets
        for box, target in zip(made.prompts.boxes, made.prompts.targets[len(points) :], strict=True):
            rows, columns = np.nonzero(made.labels == target)
            middle = (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2
            assert box[0] < middle[0] < box[2]
            assert box[1] < middle[1] < box[3]


def test_extra_points_say_whether_they_are_inside() -> None:
    made = example(3)
    prompts = make_prompts(np.random.default_rng(0), made.labels, extra_points=2)
    for points, signs, target in zip(prompts.points, prompts.point_labels, prompts.targets, strict=False):
        inside = [float(made.labels[int(y), int(x)] == target) for x, y in points]
        assert inside == signs.tolist()


def test_decoding_several_pictures_at_once_is_what_upstream_does_one_by_one() -> None:
    torch.manual_seed(0)
    sam: Sam = build_sam(TINY)
    embeddings = torch.randn(2, 16, 4, 4)
    points, signs = torch.rand(6, 1, 2) * 32, torch.ones(6, 1)
    owners = torch.tensor([0, 0, 1, 1, 0, 1])
    with torch.inference_mode():
        tokens, dense = sam.prompt_encoder(points=(points, signs), boxes=None, masks=None)
        masks, scores = decode(sam, embeddings, tokens, owners)
        for i in range(2):
            mine = owners == i
            expected = sam.mask_decoder.predict_masks(
                image_embeddings=embeddings[i : i + 1],
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=tokens[mine],
                dense_prompt_embeddings=dense[mine],
            )
            torch.testing.assert_close(masks[mine], expected[0])
            torch.testing.assert_close(scores[mine], expected[1])


def test_cells_know_number_middle_and_name_of_their_object() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 48:] = PADDING
    labels[8:24, 8:24] = 2
    numbers, codes, names = cell_facts(labels, np.array([3, 7, 0, 0, 0], np.uint8), 8)
    assert numbers[1:3, 1:3].tolist() == [[2, 2], [2, 2]]
    assert int((numbers > 0).sum()) == 4
    assert names[1, 1] == 7
    assert torch.equal(codes[1, 1], codes[2, 2])
    assert not codes[4, 4].any()


def test_losses_and_ious_reward_the_right_mask() -> None:
    target = torch.zeros(1, 8, 8)
    target[:, 2:6, 2:6] = 1
    right, wrong = (target * 2 - 1) * 9, (target * 2 - 1) * -9
    logits = torch.stack([right, wrong], dim=1)
    losses = mask_losses(logits, target)
    assert losses[0, 0] < 0.01
    assert losses[0, 1] > 1
    assert true_ious(logits, target).tolist() == [[1.0, 0.0]]
