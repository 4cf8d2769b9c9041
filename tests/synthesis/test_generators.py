"""Contract: a generator makes an image for each caption and seed; the same seed gives the same image."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ram_ray.config import RunConfig
from ram_ray.drawn_scenes import OBJECTS
from ram_ray.records import SAMPLE, to_table
from ram_ray.synthesis.generators import (
    DiffusersGenerator,
    DrawnGenerator,
    make_generator,
    parse_scene,
)
from ram_ray.synthesis.pairs import synthetic_rows
from ram_ray.synthesis.synthetic_images import Synthesizer, SyntheticSettings


def test_a_caption_is_parsed_into_a_scene() -> None:
    scene = parse_scene("A red umbrella is jumping next to two nice blue anchors, on the beach!", seed=0)
    things = {thing.name: thing for thing in scene.things}
    assert scene.background == "beach" and things.keys() == {"umbrella", "anchor"}
    assert (things["umbrella"].colour, things["umbrella"].action) == ("red", "jump")
    assert (things["anchor"].colour, things["anchor"].action) == ("blue", None)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("something red is spinning in the snow", {"red", "spin", "snow"}),
        ("in the sky there is a cat and something green", {"sky", "cat", "green"}),
        ("a sleeping pink cow", {"sleep", "pink", "cow"}),
        ("an orange sun shines while a drum falls", {"orange", "sun", "shine", "drum", "fall"}),
    ],
)
def test_all_words_of_the_vocabulary_are_drawn(text: str, tags: set[str]) -> None:
    for seed in range(5):
        assert tags <= set(parse_scene(text, seed=seed).truth)


def test_captions_of_drawn_scenes_are_parsed_back() -> None:
    import random

    from ram_ray.drawn_scenes import draw_caption, sample_scene

    rng = random.Random(0)
    for seed in range(300):
        scene = sample_scene(rng)
        parsed = parse_scene(draw_caption(scene, rng), seed=seed)
        expected = {(thing.name, thing.colour, thing.action) for thing in scene.things}
        assert {(thing.name, thing.colour, thing.action) for thing in parsed.things} == expected
        assert parsed.background == scene.background


def test_a_caption_without_a_known_word_gives_a_background() -> None:
    assert parse_scene("two men discuss the budget", seed=1).things == ()
    assert parse_scene("", seed=1).things == ()
    assert parse_scene("something", seed=1).things == ()
    assert len(parse_scene(" ".join(OBJECTS), seed=1).things) == 4


def test_drawn_images_depend_on_their_seeds() -> None:
    generator = make_generator("drawn")
    assert isinstance(generator, DrawnGenerator)
    texts = ["a red sun", "a red sun", "a red sun", "a blue cow"]
    images = generator.generate(texts, seeds=[1, 1, 2, 1], size=48)
    assert [(image.size, image.mode) for image in images] == [((48, 48), "RGB")] * 4
    pixels = [image.tobytes() for image in images]
    assert pixels[0] == pixels[1] and len(set(pixels)) == 3
    assert pixels[2] == generator.generate(texts[2:3], seeds=[2], size=48)[0].tobytes()
    assert generator.generate([], seeds=[], size=48) == []
    with pytest.raises(ValueError, match="one seed a caption"):
        generator.generate(["a sun"], seeds=[], size=48)


def test_without_diffusers_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "from ram_ray.synthesis.generators import DiffusersGenerator\n"
        "try: DiffusersGenerator('some/model')\n"
        "except ImportError as error: print(error)"
    )
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout
    assert "[synthesis]" in out and "some/model" in out


def test_importing_the_generators_loads_neither_torch_nor_diffusers() -> None:
    code = "import sys, ram_ray.synthesis.generators; print({'torch', 'diffusers', 'matplotlib'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout
    assert out.strip() == "set()"


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"native_size": 30}, {"steps": 0}])
def test_wrong_options_are_named_before_anything_loads(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DiffusersGenerator("nowhere", **wrong)


@pytest.fixture(scope="module")
def tiny_diffusion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Stable Diffusion pipeline of the real classes with random weights, 16 px latents of 8 x 8, saved."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers (the extra 'synthesis') is not installed")
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("diffusion")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24)
    text_config = CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=24, projection_dim=16,
        bos_token_id=len(vocabulary) - 2, eos_token_id=len(vocabulary) - 1, pad_token_id=len(vocabulary) - 1,
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text_config), tokenizer=tokenizer, unet=unet,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    return str(folder / "model")


def test_a_real_diffusion_pipeline_generates_from_captions_and_seeds(tiny_diffusion: str) -> None:
    generator = make_generator(tiny_diffusion, steps=2, batch_size=2)
    assert isinstance(generator, DiffusersGenerator) and generator.native_size == 16
    texts = ["a red sun", "a blue cow", "a red sun", "a red sun"]
    images = generator.generate(texts, seeds=[3, 3, 4, 3], size=20)
    assert [(image.size, image.mode) for image in images] == [((20, 20), "RGB")] * 4
    pixels = [np.asarray(image, int) for image in images]
    assert np.abs(pixels[0] - pixels[3]).max() <= 1, "an image depends on its caption and seed, not on its batch"
    assert np.abs(pixels[0] - pixels[2]).max() > 8, "another seed gives another image"
    assert np.abs(pixels[0] - pixels[1]).max() > 0, "another caption gives another image"
    other = DiffusersGenerator(tiny_diffusion, steps=2, native_size=24).generate(["a sun"], seeds=[0], size=24)
    assert other[0].size == (24, 24)


def test_a_caption_that_the_safety_check_refuses_is_rejected_and_gives_no_black_image(
    tiny_diffusion: str, tmp_path: Path
) -> None:
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {**small, "image_size": 16, "patch_size": 8, "projection_dim": 8}
    checker = StableDiffusionSafetyChecker(CLIPConfig(text_config=small, vision_config=vision, projection_dim=8))
    generator = DiffusersGenerator(tiny_diffusion, steps=1)
    extractor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    generator.pipeline.register_modules(safety_checker=checker.eval(), feature_extractor=extractor)
    for weights in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
        weights.data = torch.full_like(weights, 2.0)  # no cosine is as large: all pass
    assert len(generator.generate(["a sun"], seeds=[0], size=16)) == 1
    checker.concept_embeds_weights.data -= 4.0  # every cosine is larger: none passes
    assert generator.generate(["a sun", "a cow"], seeds=[0, 1], size=16) == [None, None]

    generator.pipeline.save_pretrained(tmp_path / "strict", safe_serialization=True)
    tree = {"generator": str(tmp_path / "strict"), "images_per_caption": 2, "generation": {"steps": 1, "batch_size": 3}}
    settings = SyntheticSettings.from_config(RunConfig.model_validate({"represent": tree}))
    settings = settings.model_copy(update={"size": 16})
    samples = [{"key": f"s/{n}", "shard": "s", "captions": [text]} for n, text in enumerate(("a sun", "a cow"))]
    table = Synthesizer(settings, folder=str(tmp_path / "images"), device="cpu")(to_table(samples, SAMPLE))
    assert table["reason"].to_pylist() == ["refused_caption"] * 2 and table["images"].to_pylist() == [[], []]
    assert table["detail"].to_pylist() == ["the safety check refused 'a sun'", "the safety check refused 'a cow'"]
    assert not synthetic_rows(table), "a refused caption is not trained on"


def test_weights_that_are_pickles_are_not_read(tiny_diffusion: str, tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file

    copy = tmp_path / "pickled"
    shutil.copytree(tiny_diffusion, copy)
    weights = next((copy / "unet").glob("*.safetensors"))
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(OSError):
        DiffusersGenerator(str(copy))
