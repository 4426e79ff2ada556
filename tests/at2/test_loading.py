"""Loading models: kinds of checkpoints, settings, and what is refused."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlamaConfig,
    LlamaForCausalLM,
)

from at2.errors import InputError, ModelError, UnsupportedModelError
from at2.estimator.identity import ModelIdentity
from at2.methods import METHODS, AverageAttentionAttributor
from at2.model import loading as utils
from at2.model.attention import attention_shape, check_capture, token_scores
from at2.model.tokens import MarkedTokens
from at2.model.weighing import Weighing
from at2.tasks import SimpleContextAttributionTask
from at2.utils import get_model_and_tokenizer
from tests.helpers.tokenizers import tiny_tokenizer

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": 6,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def save_text_model(folder: Path, **sizes: int) -> Path:
    tokenizer = tiny_tokenizer("byte_level")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **(TEXT | sizes)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("text"))


@cache
def multimodal_config(family: str) -> Any:
    vocabulary = {"vocab_size": len(tiny_tokenizer("byte_level"))}
    if family == "gemma3":
        sliding = {
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        }
        text = {**TEXT, **vocabulary, **sliding, "model_type": "gemma3_text"}
        vision = {**VISION, "model_type": "siglip_vision_model"}
        return AutoConfig.for_model(
            "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4
        )
    text = {**TEXT, **vocabulary, "model_type": "llama"}
    vision = {**VISION, "model_type": "clip_vision_model", "projection_dim": 16}
    return AutoConfig.for_model("llava", text_config=text, vision_config=vision)


def task_of(model: Any, tokenizer: Any) -> SimpleContextAttributionTask:
    task = SimpleContextAttributionTask(
        "The quick brown fox. Ada wrote it.", "Who?", model, tokenizer, source_type="sentence"
    )
    task.set_generation("Ada did.")
    return task


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    file = save_text_model(tmp_path) / "model.safetensors"
    name = "model.layers.1.mlp.up_proj.weight"
    rest = {key: value for key, value in load_file(file).items() if key != name}
    save_file(rest, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"it lacks 1 weights, such as {name}"):
        get_model_and_tokenizer(str(tmp_path))


@pytest.mark.parametrize("family", ["gemma3", "llava"])
def test_the_language_model_of_a_multimodal_checkpoint_is_used_alone(
    family: str, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer("byte_level")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = AutoModelForImageTextToText.from_config(multimodal_config(family)).eval()
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    model, loaded_tokenizer = get_model_and_tokenizer(str(tmp_path))

    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, whole(input_ids=ids).logits)
    assert not any("vision" in name for name, _ in model.named_parameters())
    assert (attention_shape(model).num_layers, attention_shape(model).num_heads) == (3, 4)
    assert check_capture(model) < 1e-5
    assert ModelIdentity.of(model, loaded_tokenizer).num_layers == 3
    task = task_of(model, loaded_tokenizer)
    assert len(task.generate()) > 0
    assert AverageAttentionAttributor(task).get_attribution_scores().shape == (2,)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_kernel_of_ordinary_passes_changes_no_score(
    implementation: str, text_model: Path
) -> None:
    plain = AverageAttentionAttributor(task_of(*get_model_and_tokenizer(str(text_model))))
    model, tokenizer = get_model_and_tokenizer(str(text_model), attn_implementation=implementation)
    assert model.config._attn_implementation == implementation
    scores = AverageAttentionAttributor(task_of(model, tokenizer)).get_attribution_scores()
    torch.testing.assert_close(
        torch.from_numpy(scores),
        torch.from_numpy(plain.get_attribution_scores()),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, torch.float32),
        ({"dtype": torch.bfloat16}, torch.bfloat16),
        ({"dtype": "float16"}, torch.float16),
        ({"torch_dtype": torch.bfloat16}, torch.bfloat16),
        ({"dtype": "auto"}, torch.float32),
    ],
)
def test_weights_have_the_type_that_was_asked_for(
    given: dict[str, Any], expected: torch.dtype, text_model: Path
) -> None:
    model, tokenizer = get_model_and_tokenizer(str(text_model), device="cpu", **given)
    assert model.dtype == expected
    assert not model.training
    assert tokenizer.padding_side == "left"
    assert model.name_or_path == str(text_model)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"dtype": "float17"}, "unknown dtype 'float17'"),
        ({"quantization": "2bit"}, "unknown quantization '2bit'"),
        ({"device": "cpu", "device_map": "auto"}, "device or device_map"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        get_model_and_tokenizer("some/model", **given)
    assert caught.value.param in given


@pytest.mark.parametrize(
    ("given", "package"),
    [({"quantization": "4bit"}, "bitsandbytes"), ({"device_map": "auto"}, "accelerate")],
)
def test_a_missing_package_is_named(
    given: dict[str, Any], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=f"pip install {package}"):
        get_model_and_tokenizer("some/model", **given)


# Eight bits round the activations as well: from the second layer on, two kernels' last digits may
# decide which way.
@pytest.mark.parametrize(("quantization", "layers"), [("4bit", 3), ("8bit", 1)])
def test_attention_over_quantized_weights_equals_eager_attention(
    quantization: Literal["4bit", "8bit"], layers: int, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}  # kernels want 64s
    save_text_model(tmp_path, **sizes)

    def load(attn_implementation: str | None = None) -> Any:
        model, _ = get_model_and_tokenizer(
            str(tmp_path),
            dtype=torch.float32,
            device="cpu",
            attn_implementation=attn_implementation,
            quantization=quantization,
        )
        return model

    model, ids = load(), torch.arange(3, 43)
    assert not model.model.layers[0].self_attn.q_proj.weight.is_floating_point()
    weights = torch.zeros(3, 4)
    weights[:layers] = 1 / weights[:layers].numel()
    found = token_scores(model, MarkedTokens(ids, (20, 40)), Weighing(weights))
    with torch.no_grad():
        eager = load("eager")(ids[None], output_attentions=True, use_cache=False).attentions
    expected = torch.stack(eager[:layers])[:, 0, :, 19:39, :40].mean((0, 1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_eight_bits_come_with_half_precision_and_pass_the_self_test(tmp_path: Path) -> None:
    save_text_model(tmp_path, hidden_size=128, intermediate_size=192, head_dim=32)
    model, _ = get_model_and_tokenizer(str(tmp_path), device="cpu", quantization="8bit")
    assert model.dtype == torch.float16
    assert check_capture(model) < 0.05


@pytest.mark.parametrize("method", ["average_attention", "leave_one_out", "gradient_norm"])
@pytest.mark.parametrize("on_disk", [["model.layers.1"], ["model.embed_tokens", "lm_head"]])
def test_a_model_in_several_places_gives_the_same_scores(
    method: str, on_disk: list[str], text_model: Path, tmp_path: Path
) -> None:
    parts = ["embed_tokens", "layers.0", "layers.1", "layers.2", "norm", "rotary_emb"]
    names = [f"model.{part}" for part in parts] + ["lm_head"]
    device_map = {name: "disk" if name in on_disk else "cpu" for name in names}
    spread = get_model_and_tokenizer(
        str(text_model), device_map=device_map, offload_folder=str(tmp_path)
    )
    assert spread[0].hf_device_map == device_map
    plain = get_model_and_tokenizer(str(text_model), device="cpu")
    np.testing.assert_array_equal(
        METHODS[method].build(task_of(*spread)).get_attribution_scores(),
        METHODS[method].build(task_of(*plain)).get_attribution_scores(),
    )
    if "model.embed_tokens" not in on_disk:  # transformers' generate wants them in memory
        assert task_of(*spread).generate() == task_of(*plain).generate()


def test_a_tokenizer_without_offsets_is_refused(text_model: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((text_model / name).read_bytes())
    (tmp_path / "vocab.json").write_text(json.dumps({"<unk>": 0, "a</w>": 1, "b</w>": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CTRLTokenizer", "unk_token": "<unk>"})
    )
    with pytest.raises(UnsupportedModelError, match="no character offsets"):
        get_model_and_tokenizer(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff" * 64])
def test_a_broken_checkpoint_is_refused_in_one_line(
    name: str, content: bytes | None, text_model: Path, tmp_path: Path
) -> None:
    for file in text_model.iterdir():
        if file.name != name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ModelError, UnsupportedModelError)) as caught:
        get_model_and_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_code_of_a_checkpoint_is_not_run(text_model: Path, tmp_path: Path) -> None:
    for file in text_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "never_heard_of",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="custom code"):
        get_model_and_tokenizer(str(tmp_path))
    assert not marker.exists()
