"""A Dockerfile as a list of instructions, without comments and continued lines."""

import json
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction, with the comment lines and line ends inside it gone."""

    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """The words of its JSON form."""
        words: list[str] = json.loads(self.value)
        return words


def instructions(path: Path) -> list[Instruction]:
    """All instructions of a file, in order."""
    text = "\n".join(
        line for line in path.read_text("utf-8").splitlines() if not re.match(r"\s*#", line)
    )
    text = re.sub(r"\\\n\s*", " ", text)
    pairs = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [Instruction(name.upper(), value.strip()) for name, _, value in pairs]


def stages(path: Path) -> list[list[Instruction]]:
    """The instructions of each stage, its `FROM` first; those before the first are left out."""
    found: list[list[Instruction]] = []
    for instruction in instructions(path):
        if instruction.name == "FROM":
            found.append([])
        if found:
            found[-1].append(instruction)
    return found


def environment(stage: list[Instruction]) -> dict[str, str]:
    """What `ENV` sets in a stage, without what it takes from elsewhere."""
    return {
        name: value
        for instruction in stage
        if instruction.name == "ENV"
        for name, value in re.findall(r"(\w+)=(\S+)", instruction.value)
    }
