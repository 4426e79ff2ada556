"""`at2`: serve a model, ask it from files, see which sentences an answer rests on, and calibrate.

`ask` and `attribute` talk to a server and load no model library.
"""

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.validators import MutuallyExclusive

from at2.command_line import CommandError, OutputConsole, add_settings_command, make_app, run_app
from at2.printable import printable_json
from service.calibrate import calibrate
from service.citations import print_answer, print_attributions
from service.client import AuthenticationError, Client, ClientError, ConnectionFailedError
from service.client.wire import DEFAULT_URL
from service.field_types import DEFAULT_MIN_SHARE, MAX_DOCUMENT_ID, Method, SourceType
from service.reply_schemas import AttributeReply

STDIN = "-"

_MOST_CITATIONS = 3
_MOST_SOURCES = 5

_MIN_SHARE_HELP = (
    f"share of all positive scores from which on a source is cited (default: {DEFAULT_MIN_SHARE})"
)

app = make_app("at2", "Which parts of the context did the model use?")


def _serve(flags: Sequence[str], program: str) -> int:
    from service.serve import serve  # imports the server's libraries

    return serve(flags, program)


add_settings_command(app, "serve", "Start a server; its settings are flags.", _serve)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class _Asking:
    """What commands that ask a server have in common.

    Attributes:
        context: a document to answer from; several if given again; - is standard input
        url: of the server
        key: for the server; better AT2_API_KEY, as flags can be seen by others
        json: print the server's replies instead
        support: measure whether the context made the model say it, and show what that means
        source_type: what the documents are cut into
        method: how sources are scored
        estimator: one of the server's estimators
    """

    context: Annotated[list[str], Parameter(allow_leading_hyphen=True)]
    url: Annotated[str, Parameter(env_var="AT2_URL")] = DEFAULT_URL
    key: Annotated[str | None, Parameter(env_var="AT2_API_KEY")] = None
    json: bool = False
    min_share: Annotated[float | None, Parameter(help=_MIN_SHARE_HELP)] = None
    support: bool = False
    source_type: SourceType | None = None
    method: Method | None = None
    estimator: str | None = None

    @contextmanager
    def client(self) -> Iterator[Client]:
        """The server.

        Raises:
            CommandError: it cannot be reached, or refuses.
        """
        try:
            with Client(self.url, key=self.key) as client:
                yield client
        except ConnectionFailedError as error:
            raise CommandError(f"{error}; start one with: at2 serve") from error
        except AuthenticationError as error:
            raise CommandError(f"{error} (here: AT2_API_KEY or --key)") from error
        except ClientError as error:
            raise CommandError(str(error)) from error

    @property
    def how(self) -> dict[str, Any]:
        """Arguments of an attribution."""
        return {
            "min_share": self.min_share,
            "method": self.method,
            "estimator": self.estimator,
            "support": self.support,
        }


# -- commands ------------------------------------------------------------------------------------


@app.command
def ask(
    query: str,
    /,
    *,
    asking: _Asking,
    top_k: int = _MOST_CITATIONS,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Annotated[list[str] | None, Parameter(allow_leading_hyphen=True)] = None,
) -> None:
    """Have a question answered from files, with citations.

    Each statement of the answer is followed by the sources that count for it: those with at least
    --min-share of all positive scores.

    Args:
        query: the question or task
        top_k: the most citations of a statement
        max_new_tokens: the most tokens to write
        temperature: 0, the default, is greedy
        top_p: share of probability to sample from
        seed: makes sampling repeatable
        stop: ends the answer before this text; several if given again
    """
    documents = _documents(asking.context)
    with asking.client() as client:
        generation = client.generate(
            query,
            documents=documents,
            source_type=asking.source_type,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop,
        )
        how = {"split_by": "sentence", "top_k": top_k, **asking.how}
        attribution: AttributeReply | None = None
        if not generation.statements:
            pass
        elif generation.expires is not None:
            attribution = client.attribute(generation, **how)
        else:  # a server that keeps nothing must be told it all again
            attribution = client.attribute(
                query=query,
                documents=documents,
                response=generation.response,
                source_type=asking.source_type,
                **how,
            )
    if asking.json:
        _print_json({"generation": generation, "attribution": attribution})
    else:
        attributions = attribution.attributions if attribution else []
        print_answer(OutputConsole(), generation, attributions, asking.context)


_one_span = Group(show=False, validator=MutuallyExclusive())  # type: ignore[no-untyped-call]


@app.command
def attribute(
    *,
    query: str,
    response: Annotated[str, Parameter(allow_leading_hyphen=True)],
    span: Annotated[tuple[int, int] | None, Parameter(group=_one_span)] = None,
    quote: Annotated[str | None, Parameter(group=_one_span)] = None,
    verify: bool = False,
    asking: _Asking,
    top_k: int = _MOST_SOURCES,
) -> None:
    """Rank the sources of a response, wherever it was written: of each of its statements, or of one
    span.

    Args:
        query: what the response answers
        response: the response, or a file with it; - is standard input
        span: characters of the response to attribute, from START to END
        quote: part of the response to attribute
        verify: really hide the sources, and show what that does
        top_k: the most sources of a span
    """
    if response == STDIN and STDIN in asking.context:
        raise CommandError("- can be given only once")
    with asking.client() as client:
        attribution = client.attribute(
            query=query,
            documents=_documents(asking.context),
            response=_response(response),
            span=span,
            quote=quote,
            split_by="sentence" if span is None and quote is None else None,
            source_type=asking.source_type,
            top_k=top_k,
            verify=verify,
            **asking.how,
        )
    if asking.json:
        _print_json(attribution)
    else:
        print_attributions(OutputConsole(), attribution.attributions, asking.context)


app.command(calibrate)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those of the command line by default.

    Returns:
        0; 1 after an error and 2 where arguments or settings are wrong, with a line for each on
        standard error; 130 after Ctrl-C, 141 where nobody reads the output any longer.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know all of Unicode
    return run_app(app, arguments)


# -- files and output ----------------------------------------------------------------------------


def _documents(names: Sequence[str]) -> list[dict[str, str]]:
    if names.count(STDIN) > 1:
        raise CommandError("- can be given only once")
    return [{"id": _id(name), "text": _read(name)} for name in names]


def _id(name: str) -> str:
    """A file's name as the id of a document: text, and no longer than an id may be."""
    return os.fsencode(name).decode(errors="replace")[-MAX_DOCUMENT_ID:]


def _read(name: str) -> str:
    try:
        if name == STDIN:
            text = sys.stdin.buffer.read().decode()
        else:
            text = Path(name).read_bytes().decode()  # no newline is translated: offsets count them
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{name}: not UTF-8 text") from error
    if not text.strip():
        raise CommandError(f"{name}: there is no text in it")
    return text


def _response(response: str) -> str:
    try:
        is_file = response == STDIN or Path(response).is_file()
    except OSError:  # too long for a name
        is_file = False
    return _read(response) if is_file else response


def _print_json(value: Any) -> None:
    text = json.dumps(value, default=lambda reply: reply.model_dump(), ensure_ascii=False, indent=2)
    print(printable_json(text))


if __name__ == "__main__":
    sys.exit(main())
