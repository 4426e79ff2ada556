"""`docs/jobs.md` says what is there: settings, commands, configurations, and a file that runs."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from at2.errors import InputError
from trainer_jobs.cli import COMMANDS
from trainer_jobs.examples import load_examples
from trainer_jobs.settings import JobSettings

DOCS = (Path(__file__).parents[2] / "docs/jobs.md").read_text("utf-8")


def table() -> list[str]:
    """The rows of the table of settings, made from the code."""
    rows = []
    for name, field in JobSettings.model_fields.items():
        default = field.default
        if default is PydanticUndefined or default is None or default in ({}, ()):
            shown = ""
        elif isinstance(default, tuple):
            shown = f"`{','.join(map(str, default))}`"
        else:
            shown = f"`{default}`"
        description = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | {shown} | {description} |")
    return rows


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS, flags=re.DOTALL)


def test_every_setting_is_in_the_table_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs/settings.md").read_text("utf-8")
    written = re.findall(r"^\| `[a-z_]+` \| .*$", page, flags=re.MULTILINE)
    assert written == table()


def test_every_command_is_listed_as_help_has_it() -> None:
    for command, what in COMMANDS.items():
        assert f"| `{command}` | {what} |" in DOCS


def test_every_configuration_of_the_package_is_listed_with_its_model_and_data() -> None:
    for name in JobSettings.preset_names():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", DOCS, flags=re.MULTILINE)
        values = JobSettings.read_file(name)
        assert f"`{values['model']}`" in row
        assert f"`{values['dataset']}`" in row


def test_the_example_of_a_configuration_works(tmp_path: Path) -> None:
    (text,) = code_blocks("toml")
    row = json.loads(re.search(r"# (\{.*\})", text)[1])  # type: ignore[index]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(row | {"n": i}) + "\n" for i in range(200)), "utf-8")
    config = tmp_path / "mine.toml"
    config.write_text(text.replace("questions.jsonl", str(data)), "utf-8")
    settings = JobSettings.read(["--config", str(config)], "")
    found = load_examples(settings)
    assert len(found.held_out) == tomllib.loads(text)["held_out"] == 100
    assert len(found.examples) == 200


def test_the_message_about_a_bad_row_is_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("questions.jsonl").write_text("\n" * 16 + '{"context": }\n')
    with pytest.raises(InputError) as error:
        load_examples(JobSettings(out="x", dataset="questions.jsonl"))
    assert f"`{error.value}`" in " ".join(DOCS.split())


def test_the_flags_in_the_documentation_exist() -> None:
    lines = [line for block in code_blocks("console") for line in block.splitlines()]
    commands = [line for line in lines if "python -m trainer_jobs " in line]
    assert len(commands) >= 5
    for line in commands:
        words = re.split(r"[#\"&]", line.partition("-m trainer_jobs ")[2])[0].split()
        if words[0] == "--help":
            continue
        assert words[0] in COMMANDS
        flags = [word.replace("mine.toml", "smollm2") for word in words[1:]]
        assert JobSettings.read(flags, "").out
