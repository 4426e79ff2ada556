"""Where a GGUF file is, and what transformers leaves to be put right after reading one.

GGUF is llama.cpp's format, which Ollama uses as well: quantised weights, configuration, tokenizer
and chat template in one file. transformers reads it and dequantises the weights.
"""

import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from at2.errors import ModelError

SUFFIX = ".gguf"
"""What the names of such files end in."""

_MAGIC = b"GGUF"
_LENGTH = {"I": "=Q", "S": ">Q" if sys.byteorder == "little" else "<Q"}
"""A string's length, by gguf's name of the byte order: that of this machine, or the other."""

_REPOSITORY_PARTS = 2
_REPLY = "xreplyx"


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file, as `from_pretrained` takes it.

    Attributes:
        place: the folder or the hub repository that holds it.
        file: its name there.
    """

    place: str
    file: str


def find_gguf(name: str, file: str | None = None) -> GgufFile | None:
    """The GGUF file that a model's name means; None for a name of something else.

    Args:
        name: a path that ends in `.gguf`, `owner/repository/file.gguf` on the hub, or the folder or
            repository of `file`.
        file: the file's name in the folder or repository.

    Raises:
        ModelError: there is no such file here, or it is no GGUF file.
    """
    if file is not None:
        path = Path(name).expanduser()
        return _checked(path / file) if path.is_dir() else GgufFile(name, file)
    if not name.lower().endswith(SUFFIX):
        return None
    path = Path(name).expanduser()
    parts = name.split("/")
    on_the_hub = len(parts) > _REPOSITORY_PARTS and all(parts) and parts[0] not in (".", "..", "~")
    if path.exists() or not on_the_hub:
        return _checked(path)
    return GgufFile("/".join(parts[:_REPOSITORY_PARTS]), "/".join(parts[_REPOSITORY_PARTS:]))


def _checked(path: Path) -> GgufFile:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    if magic != _MAGIC:
        raise ModelError(f"cannot read {path}: it is no GGUF file (it begins with {magic!r})")
    return GgufFile(str(path.parent), path.name)


class _FastReader(gguf.GGUFReader):
    """A reader of GGUF files that reads an array's items at once.

    gguf's own makes three views of a memory map for every item: five seconds for the 98,000 strings
    of a tokenizer. A view of a plain array costs a third of one of a memory map.
    """

    @property
    def data(self) -> Any:
        """The file's bytes: uint8, shape (bytes,)."""
        return self._data

    @data.setter
    def data(self, mapped: Any) -> None:
        self._data: NDArray[np.uint8] = np.asarray(mapped)

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[Any], list[int], list[gguf.GGUFValueType]]:
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        item, count = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        start, kind = orig_offs + 12, gguf.GGUFValueType(item[0])
        items: list[Any]
        if kind == gguf.GGUFValueType.STRING:
            items, end = self._strings(start, int(count[0]))
        elif kind in self.gguf_scalar_to_np:
            values = self._get(start, self.gguf_scalar_to_np[kind], count[0])
            if len(values) < count[0]:
                raise ValueError("the file ends inside an array")
            items, end = [(value,) for value in values.tolist()], start + values.nbytes
        else:
            return super()._get_field_parts(orig_offs, raw_type)
        parts = [item, count, *items]
        return end - orig_offs, parts, list(range(2, len(parts))), [gguf.GGUFValueType.ARRAY, kind]

    def _strings(self, start: int, count: int) -> tuple[list[bytes], int]:
        """So many strings from a byte on, and the byte after them."""
        data, length = memoryview(self.data), struct.Struct(_LENGTH[self.byte_order])
        strings = []
        for _ in range(count):
            (size,) = length.unpack_from(data, start)
            start += length.size
            strings.append(data[start : start + size].tobytes())
            start += size
        if start > len(data):
            raise ValueError("the file ends inside a string")
        return strings, start


@contextmanager
def parsed_once() -> Iterator[list[gguf.GGUFReader]]:
    """Let transformers parse a GGUF file once for configuration, tokenizer and weights together.

    By itself it parses the file for each, and builds the table of the tensors' names anew for every
    module: on the default model's 98,000 strings and 272 tensors that is most of the loading time.

    Yields:
        The files parsed so far.
    """
    parsed: list[gguf.GGUFReader] = []

    @cache
    def read(path: str) -> gguf.GGUFReader:
        parsed.append(_FastReader(path))
        return parsed[-1]

    faster = {"GGUFReader": read, "get_tensor_name_map": cache(gguf.get_tensor_name_map)}
    originals = {name: getattr(gguf, name) for name in faster}
    for name, function in faster.items():
        setattr(gguf, name, function)
    try:
        yield parsed
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)


def finish_loading(model: Any, tokenizer: Any) -> None:
    """Make a model that was read from a GGUF file like any other.

    The weights are dequantised, so the mark of their quantisation goes: with it the model could not
    be saved. The token that ends a turn in the chat template ends a response, too: the file names a
    single end token, which in some is that of a text.
    """
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    ends = model.generation_config.eos_token_id
    known = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    end_of_turn = _end_of_turn(tokenizer)
    if end_of_turn is not None and end_of_turn not in known:
        model.generation_config.eos_token_id = [*known, end_of_turn]


def _end_of_turn(tokenizer: Any) -> int | None:
    """The control token right after a reply in the chat template; None if there is none."""
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _REPLY}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # templates are programs of others, and say so in their own words when used
        return None
    rest = text.partition(_REPLY)[2].lstrip()
    controls = {token: index for index, token in tokenizer.added_tokens_decoder.items()}
    matches = [str(token) for token in controls if rest.startswith(str(token))]
    if not matches:
        return None
    index: int = tokenizer.convert_tokens_to_ids(max(matches, key=len))
    return index
