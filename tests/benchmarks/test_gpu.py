"""The GPU benchmark's code runs anywhere; its figures are of a machine with a GPU."""

import pytest
import torch

from benchmarks import gpu


def test_every_row_is_measured_on_a_tiny_model(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--context", "192", "--response", "16", "--masks", "4"]
    gpu.main(["--device", "cpu", "--shape", "tiny", "--dtype", "float32", *sizes])
    out = capsys.readouterr().out
    for row in (
        "capture against eager",
        "prefill",
        "4 ablations of",
        "tokens per second, 8 at once",
    ):
        assert f"| {row}" in out
    assert "nan" not in out


def test_shapes_have_the_sizes_of_the_models_they_are_named_after() -> None:
    counts = {}
    for name, shape in gpu.SHAPES.items():
        with torch.device("meta"):
            model = gpu.build(shape, torch.bfloat16, torch.device("meta"))
        counts[name] = sum(p.numel() for p in model.parameters())
    assert counts["phi-4-mini"] == pytest.approx(3.84e9, rel=0.01)
    assert counts["llama-3.1-8b"] == pytest.approx(8.03e9, rel=0.01)
