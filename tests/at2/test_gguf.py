"""GGUF files: what they hold is what is loaded, and what is wrong with one is said in one line."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from at2.errors import InputError, ModelError
from at2.estimator.identity import ModelIdentity
from at2.fingerprints import weights_fingerprint
from at2.methods import AverageAttentionAttributor
from at2.model.attention import check_capture
from at2.model.gguf import GgufFile, find_gguf, parsed_once
from at2.tasks import SimpleContextAttributionTask
from at2.tasks.generation import end_ids
from at2.utils import get_model_and_tokenizer
from tests.helpers.gguf_files import rounded, write_gguf
from tests.helpers.tiny import tiny_pair

F32, Q8_0 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0
TEXTS = [
    "The library opens at nine. It's closed on Sundays, isn't it?",
    "Été 😀 12,345.67\n\n\tnext  line   <|end|> 你好",
]


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def tiny_like(**settings: Any) -> tuple[Any, Any]:
    """A tiny model with some settings of its own."""
    model, tokenizer = tiny_pair()
    config = type(model.config)(**model.config.to_dict() | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return type(model)(config).eval(), tokenizer


@pytest.fixture(scope="module")
def wide_pair() -> tuple[Any, Any]:
    """A tiny model whose matrices have rows of whole blocks of 32."""
    return tiny_like(intermediate_size=64)


@pytest.fixture(scope="module")
def file(wide_pair: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf"
    write_gguf(path, *wide_pair)
    return path


def task_of(model: Any, tokenizer: Any) -> SimpleContextAttributionTask:
    task = SimpleContextAttributionTask(
        "The library opens at nine. It is closed on Sundays.",
        "When does it open?",
        model,
        tokenizer,
        {"max_new_tokens": 12, "do_sample": False},
        source_type="sentence",
    )
    task.set_generation("It opens at nine.")
    return task


@pytest.mark.parametrize("kind", [F32, Q8_0])
def test_the_weights_that_were_written_are_loaded(
    kind: gguf.GGMLQuantizationType, wide_pair: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = wide_pair
    write_gguf(tmp_path / "tiny.gguf", model, tokenizer, kind)
    loaded, _ = get_model_and_tokenizer(str(tmp_path / "tiny.gguf"), device="cpu")
    assert loaded.dtype == torch.float32
    expected = model.state_dict()
    found = loaded.state_dict()
    assert set(found) == set(expected)
    for name, parameter in expected.items():
        values = parameter.numpy()
        if kind == Q8_0 and values.ndim == 2:
            values = rounded(values)
        np.testing.assert_allclose(found[name].numpy(), values, rtol=1e-6, atol=0, err_msg=name)


@pytest.mark.parametrize("order", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG])
def test_the_faster_reader_reads_what_the_one_of_gguf_reads(
    order: gguf.GGUFEndian, tmp_path: Path
) -> None:
    values = {
        "of.strings": ["", "a", "Été 😀", "x" * 300],
        "of.integers": [-3, 0, 70_000],
        "of.fractions": [0.5, -1.25],
        "of.truths": [True, False],
        "one.string": "tiny",
        "one.number": 7,
    }
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama", endianess=order)
    for name, value in values.items():
        writer.add_key_value(
            name,
            value,
            {list: gguf.GGUFValueType.ARRAY, str: gguf.GGUFValueType.STRING}.get(
                type(value), gguf.GGUFValueType.INT32
            ),
        )
    writer.add_tensor("weights", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    original = gguf.GGUFReader(tmp_path / "tiny.gguf")
    with parsed_once():
        faster = gguf.GGUFReader(tmp_path / "tiny.gguf")
    assert type(faster) is not type(original)
    assert set(values) < set(original.fields)
    for name, field in original.fields.items():
        assert faster.fields[name].types == field.types
        assert _items(faster.fields[name]) == _items(field)
        if name in values:
            expected = values[name] if isinstance(values[name], list) else [values[name]]
            assert _items(field) == expected
    for ours, theirs in zip(faster.tensors, original.tensors, strict=True):
        assert (ours.name, ours.tensor_type) == (theirs.name, theirs.tensor_type)
        np.testing.assert_array_equal(ours.data, theirs.data)


def _items(field: gguf.ReaderField) -> list[Any]:
    """A field's values, by whichever reader."""
    items = [field.parts[index] for index in field.data]
    if field.types[-1] == gguf.GGUFValueType.STRING:
        return [bytes(item).decode() for item in items]
    return [item[0] for item in items]


def test_tokenizer_template_and_ends_are_those_written(
    file: Path, wide_pair: tuple[Any, Any]
) -> None:
    model, tokenizer = wide_pair
    loaded_model, loaded = get_model_and_tokenizer(str(file), device="cpu")
    assert loaded.get_vocab().items() >= tokenizer.get_vocab().items()
    assert loaded.chat_template == tokenizer.chat_template
    for text in TEXTS:
        one, other = (
            t(text, add_special_tokens=False, return_offsets_mapping=True)
            for t in (loaded, tokenizer)
        )
        assert one["input_ids"] == other["input_ids"]
        assert one["offset_mapping"] == other["offset_mapping"]
        assert loaded.decode(one["input_ids"]) == text
    assert end_ids(loaded_model, {}) == {tokenizer.convert_tokens_to_ids("<|end|>")}
    own, other = task_of(loaded_model, loaded), task_of(model, tokenizer)
    assert own.token_ids == other.token_ids
    np.testing.assert_allclose(
        AverageAttentionAttributor(own).get_attribution_scores(),
        AverageAttentionAttributor(other).get_attribution_scores(),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "rope",
    [
        LLAMA3,
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 512,
            "beta_fast": 24.0,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_positions_are_stretched_as_the_file_says(rope: dict[str, Any], tmp_path: Path) -> None:
    pair = tiny_like(head_dim=32, rope_parameters={"rope_theta": 500_000.0, **rope})
    write_gguf(tmp_path / "tiny.gguf", *pair)
    loaded, _ = get_model_and_tokenizer(str(tmp_path / "tiny.gguf"), device="cpu")
    ids = torch.arange(5, 1_500)[None]
    with torch.no_grad():
        expected, found = (model(ids, logits_to_keep=20).logits for model in (pair[0], loaded))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    frequencies = [m.model.rotary_emb.inv_freq.numpy() for m in (loaded, pair[0])]
    np.testing.assert_allclose(*frequencies, rtol=1e-4)


def test_positions_that_are_stretched_in_an_unknown_way_are_refused(tmp_path: Path) -> None:
    odd = {"rope_theta": 500_000.0, **LLAMA3, "original_max_position_embeddings": 1_000}
    write_gguf(tmp_path / "odd.gguf", *tiny_like(head_dim=32, rope_parameters=odd))
    _refused(tmp_path / "odd.gguf", "rotary frequencies")


def test_a_file_that_lacks_weights_is_refused_in_one_line(
    wide_pair: tuple[Any, Any], tmp_path: Path
) -> None:
    path = tmp_path / "tiny-00001-of-00002.gguf"
    write_gguf(path, *wide_pair, without="blk.2.")
    _refused(path, r"lacks 9 weights, such as model\.layers\.2\..*merged")


def test_the_end_of_a_turn_ends_a_response_though_the_file_names_another(
    wide_pair: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = wide_pair
    write_gguf(tmp_path / "tiny.gguf", model, tokenizer, end="<|system|>")
    loaded, _ = get_model_and_tokenizer(str(tmp_path / "tiny.gguf"), device="cpu")
    expected = tokenizer.convert_tokens_to_ids(["<|system|>", "<|end|>"])
    assert end_ids(loaded, {}) == set(expected)


def test_what_was_loaded_is_saved_and_has_an_identity(file: Path, tmp_path: Path) -> None:
    model, tokenizer = get_model_and_tokenizer(str(file), device="cpu")
    assert check_capture(model) < 1e-5
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again, again_tokenizer = get_model_and_tokenizer(str(tmp_path / "saved"), device="cpu")
    assert weights_fingerprint(again) == weights_fingerprint(model)
    assert task_of(again, again_tokenizer).generate() == task_of(model, tokenizer).generate()
    own, other = (
        ModelIdentity.of(*pair) for pair in ((model, tokenizer), (again, again_tokenizer))
    )
    assert own.model == file.name
    assert (own.config, own.tokenizer) == (other.config, other.tokenizer)
    assert (own.num_layers, own.num_heads) == (3, 4)


def test_the_type_asked_for_is_that_of_the_weights(file: Path) -> None:
    model, _ = get_model_and_tokenizer(str(file), dtype="bfloat16", device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    with pytest.raises(InputError, match="dequantised"):
        get_model_and_tokenizer(str(file), quantization="8bit", device="cpu")


def test_a_file_in_a_folder_may_be_named_by_itself(file: Path) -> None:
    by_path, _ = get_model_and_tokenizer(str(file), device="cpu")
    by_name, _ = get_model_and_tokenizer(str(file.parent), gguf_file=file.name, device="cpu")
    assert weights_fingerprint(by_name) == weights_fingerprint(by_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no GGUF file"),
        (b"PK\x03\x04 a zip archive", "no GGUF file"),
        (b"GGUF", "cannot load"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 64, "cannot load"),
    ],
)
def test_what_is_no_gguf_file_is_refused_in_one_line(
    content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    _refused(path, said)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.6, 0.99])
def test_a_file_that_was_cut_is_refused_in_one_line(
    share: float, file: Path, tmp_path: Path
) -> None:
    content = file.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: int(len(content) * share)])
    _refused(path, "cannot load")


def test_a_family_that_is_not_known_is_refused_in_one_line(
    wide_pair: tuple[Any, Any], tmp_path: Path
) -> None:
    write_gguf(tmp_path / "odd.gguf", *wide_pair, architecture="never-heard-of")
    _refused(tmp_path / "odd.gguf", "never-heard-of")


def _refused(path: Path, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        get_model_and_tokenizer(str(path), device="cpu")
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file_name", "expected"),
    [
        ("owner/repo/model.gguf", None, GgufFile("owner/repo", "model.gguf")),
        ("owner/repo/q4/model.Q4_0.GGUF", None, GgufFile("owner/repo", "q4/model.Q4_0.GGUF")),
        ("owner/repo", "model.gguf", GgufFile("owner/repo", "model.gguf")),
        ("owner/repo", None, None),
        ("some-folder", None, None),
    ],
)
def test_a_name_on_the_hub_is_a_repository_and_a_file(
    name: str, file_name: str | None, expected: GgufFile | None
) -> None:
    assert find_gguf(name, file_name) == expected


def test_a_file_that_is_here_goes_before_the_hub(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "owner" / "repo"
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(file.read_bytes())
    assert find_gguf("owner/repo/model.gguf") == GgufFile("owner/repo", "model.gguf")
    assert find_gguf(str(folder), "model.gguf") == GgufFile(str(folder), "model.gguf")


@pytest.mark.parametrize("name", ["nowhere.gguf", "./a/b/c.gguf", "/no/such/file.gguf", "~/x.gguf"])
def test_a_file_that_is_not_here_is_named(name: str) -> None:
    with pytest.raises(ModelError, match="No such file") as caught:
        find_gguf(name)
    assert Path(name).name in str(caught.value)
