"""The same weights in modules of their own.

What a pass changes of a model (its attention's name in the configuration, hooks, frequencies that
follow the length of a sequence) is changed on a twin, which nobody else runs: passes in other
threads do not see it. A twin is made of shallow copies and costs little beside a pass, so a new one
is made for each: it has the tensors, hooks, flags and modules that the model has at that moment,
whatever was trained, moved or swapped for an adapter before.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig

_PLAIN = frozenset(
    {type(None), bool, int, float, str, set, Tensor, nn.Parameter, torch.dtype, torch.device}
)
_TENSORS = ("_parameters", "_buffers")
_OWN_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_SHARED = frozenset(vars(nn.Module())) - {"_modules", *_OWN_HOOKS}
"""Of what torch keeps in a module: tensors, so that a twin has those put in their places as well;
hooks of gradients and files; flags of hooks, by the hook."""


def same_weights(model: Any, attention: str | None = None) -> Any:
    """A twin: every module and configuration copied, every parameter and buffer shared.

    Rotary embeddings that follow the length of sequences are the exception: a twin has buffers of
    its own for them, as they are before the first sequence.

    The twin has later changes of tensors and, unless accelerate moves them, tensors put in place of
    others. It has no module that is put in place of another one (an adapter) after it was made.

    Args:
        model: a transformers model; offloaded, quantised and dispatched ones as well.
        attention: the attention implementation of the twin; the model's own by default.
    """
    return _Twin(model, attention).model


@contextmanager
def twin_for_pass(model: Any, attention: str | None = None) -> Iterator[Any]:
    """`same_weights` for a while: afterwards it holds nothing, even if the pass was cut short
    between loading offloaded weights and giving them up."""
    twin = _Twin(model, attention)
    try:
        yield twin.model
    finally:
        twin.empty()


class _Twin:
    """Makes a twin; what is met twice becomes one and the same copy."""

    def __init__(self, model: Any, attention: str | None) -> None:
        model = getattr(model, "_orig_mod", model)  # as it is before it is compiled
        self._modules: dict[int, nn.Module] = {}
        self._configs: dict[int, Any] = {}
        self._tied: dict[int, Any] = {}
        originals = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
        # Hooks of accelerate put weights into their module and those below, and take them away.
        self._moves = any("_hf_hook" in module.__dict__ for module in originals)
        for module in originals:
            self._modules[id(module)] = object.__new__(type(module))
        for module in originals:
            copied = self._modules[id(module)]
            copied.__dict__.update(self._contents(module))
            _forget_lengths(copied)
        self.model: Any = self._modules[id(model)]
        if attention is not None:
            for config in self._configs.values():
                config._attn_implementation_internal = attention

    def empty(self) -> None:
        """Let go of everything."""
        for module in self._modules.values():
            module.__dict__.clear()

    def _contents(self, module: nn.Module) -> dict[str, Any]:
        contents = dict(module.__dict__)
        for name, value in contents.items():
            if type(value) in _PLAIN or name in _SHARED:
                continue
            if name == "_modules":
                if value:
                    contents[name] = {
                        key: self._modules.get(id(child), child) for key, child in value.items()
                    }
            elif name in _OWN_HOOKS:
                contents[name] = value.copy() if value else OrderedDict()
            elif name == "_compiled_call_impl":  # compiled for the model's modules
                contents[name] = None
            elif name == "_hf_hook":
                contents[name] = self._hook(value)
            else:
                contents[name] = self._value(value)
        if self._moves:
            for name in _TENSORS:
                contents[name] = contents[name].copy()
        return contents

    def _value(self, value: Any) -> Any:
        """An attribute, with the twin's modules and configurations in place of the model's."""
        if isinstance(value, nn.Module):
            return self._modules.get(id(value), value)
        if isinstance(value, PreTrainedConfig):
            return self._config(value)
        if isinstance(value, GenerationConfig):
            return copy.copy(value)
        if isinstance(value, MethodType):
            owner = self._value(value.__self__)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        if isinstance(value, partial):
            args = [self._value(each) for each in value.args]
            keywords = {name: self._value(each) for name, each in value.keywords.items()}
            bound = partial(self._value(value.func), *args, **keywords)
            bound.__dict__.update(value.__dict__)
            return bound
        if isinstance(value, FunctionType) and value.__closure__:
            return self._function(value)
        if type(value) in (list, tuple):
            items = [self._value(each) for each in value]
            return type(value)(items) if _differ(items, value) else value
        if type(value) is dict:
            return {key: self._value(each) for key, each in value.items()}
        return value

    def _config(self, config: Any) -> Any:
        """A configuration, which may hold others."""
        if id(config) not in self._configs:
            self._configs[id(config)] = copied = copy.copy(config)
            for name, value in copied.__dict__.items():
                if isinstance(value, PreTrainedConfig):
                    copied.__dict__[name] = self._config(value)
        return self._configs[id(config)]

    def _function(self, function: FunctionType) -> FunctionType:
        """A wrapper of a method, around the twin's method."""
        held = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
        contents = [self._value(value) if callable(value) else value for value in held]
        if len(held) < len(function.__closure__ or ()) or not _differ(contents, held):
            return function
        copied = FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            tuple(map(CellType, contents)),
        )
        copied.__kwdefaults__ = function.__kwdefaults__
        copied.__dict__.update(function.__dict__)
        return copied

    def _hook(self, hook: Any) -> Any:
        """A hook of accelerate, which notes what it has loaded and where."""
        copied = copy.copy(hook)
        if hasattr(copied, "hooks"):
            copied.hooks = tuple(self._hook(each) for each in copied.hooks)
        tied = getattr(copied, "tied_params_map", None)
        if tied is not None:  # one for all hooks
            if id(tied) not in self._tied:
                self._tied[id(tied)] = {place: dict(tensors) for place, tensors in tied.items()}
            copied.tied_params_map = self._tied[id(tied)]
        return copied


def _differ(ours: Iterable[Any], theirs: Iterable[Any]) -> bool:
    return any(one is not other for one, other in zip(ours, theirs, strict=True))


def _filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 (it raises where there is none)
    except ValueError:
        return False
    return True


_START = "original_inv_freq"
"""Ends the name of a rotary embedding's first frequencies; some models have them per kind of
layer."""


def _forget_lengths(module: nn.Module) -> None:
    """Put rotary frequencies that follow the length of sequences back to their start: transformers
    changes them in place, and the dynamic ones depend on the sequences before."""
    kinds = module.__dict__.get("rope_type")
    kinds = kinds.values() if isinstance(kinds, dict) else [kinds]
    if not any(kind == "longrope" or "dynamic" in str(kind) for kind in kinds):
        return
    module._buffers = dict(module._buffers)
    for held in (module._buffers, module.__dict__):
        for name in [name for name in held if name.endswith(_START)]:
            prefix, start = name.removesuffix(_START), held[name]
            assert start is not None
            now = module._buffers[f"{prefix}inv_freq"]
            assert now is not None
            module._buffers[f"{prefix}inv_freq"] = start.to(now.device, copy=True)
            module.__dict__.pop(f"{prefix}max_seq_len_cached", None)
    module.max_seq_len_cached = module.original_max_seq_len
