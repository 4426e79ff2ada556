"""Records to keep in a store."""

from at2.tasks import Document
from service.records import Generation, Prompt

SECRET = "the walrus sings at midnight 😀"
HOUR = 3600


def generation(name: str, text: str = SECRET) -> Generation:
    """A record about a document with this text."""
    return Generation(
        id=name,
        model="m",
        created=5,
        prompt=Prompt((Document(text, "d1", None),), "Why?", (("user", "Hello"),)),
        source_type="sentence",
        prompt_tokens=12,
        response_ids=(3, 1, 4),
        response="Because.",
        finish_reason="stop",
    )
