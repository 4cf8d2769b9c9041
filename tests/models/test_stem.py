"""Contract: the convolution stem gives as many tokens as patches, each of its own region, at any image size."""

import pytest
import torch
from pydantic import ValidationError

from ram_ray.models.image_encoder import ImageEncoder
from ram_ray.settings.models import SwinConfig

CONFIG = SwinConfig(
    stem="convolutions", patch_size=8, window_size=2, embed_dim=16, depths=(1, 1), num_heads=(1, 2), drop_path=0.0
)


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(CONFIG, image_size=32).eval()


@pytest.mark.parametrize("size", [32, 64])
def test_as_many_tokens_as_with_patches(encoder: ImageEncoder, size: int) -> None:
    pixels = torch.randn(2, 3, size, size)
    patches = ImageEncoder(CONFIG.model_copy(update={"stem": "patch"}), image_size=32).eval()
    with torch.inference_mode():
        assert encoder(pixels).shape == patches(pixels).shape == (2, 1 + (size // 16) ** 2, 32)


def test_a_token_depends_on_its_own_region_and_its_surroundings(encoder: ImageEncoder) -> None:
    stem = encoder.backbone.patch_embed
    pixels = torch.randn(1, 3, 32, 32)
    changed = pixels.clone()
    changed[..., 24:, 24:] += 1.0
    with torch.inference_mode():
        differs = (stem(pixels) - stem(changed)).abs().amax(-1)[0] > 0
    assert differs[3, 3]
    assert not differs[:2, :2].any()


def test_weights_load_into_another_resolution(encoder: ImageEncoder) -> None:
    other = ImageEncoder(CONFIG, image_size=64)
    other.load_state_dict(encoder.state_dict())
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(other.eval()(pixels), encoder(pixels))


@pytest.mark.parametrize("wrong", [{"patch_size": 6}, {"embed_dim": 18}])
def test_sizes_that_are_no_power_of_two_are_a_clear_error(wrong: dict) -> None:
    with pytest.raises(ValidationError, match="must be a power of two"):
        SwinConfig(**{**CONFIG.model_dump(), **wrong})
