"""`at2`: serve a model, ask it from files, see which sentences an answer rests on, and calibrate.

`ask` and `attribute` talk to a server and load no model library.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from service import calibrate
from service.citations import print_answer, print_attributions
from service.client import AuthenticationError, Client, ClientError, ConnectionFailedError
from service.client.wire import DEFAULT_URL
from service.schemas import (
    DEFAULT_MIN_SHARE,
    MAX_DOCUMENT_ID,
    AttributeReply,
    GenerateReply,
    Method,
    SourceType,
)

STDIN = "-"

_MOST_CITATIONS = 3
_MOST_SOURCES = 5


class _UsageError(Exception):
    """What was given on the command line cannot be used; the message is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those of the command line by default.

    Returns:
        0; 1 after an error, with one line on standard error; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["serve"]:
        from service.__main__ import main as serve  # its flags are the server's settings

        return serve(words[1:], program="at2 serve")
    parser = make_parser()
    options = parser.parse_args(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know all of Unicode
    try:
        return int(options.run(options))
    except (_UsageError, ClientError) as error:
        print(f"at2: {_with_hint(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whatever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _with_hint(error: Exception) -> str:
    if isinstance(error, ConnectionFailedError):
        return f"{error}; start one with: at2 serve"
    if isinstance(error, AuthenticationError):
        return f"{error} (here: AT2_API_KEY or --key)"
    return str(error)


# -- arguments -----------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="at2", description="Which parts of the context did the model use?"
    )
    parser.add_argument("--version", action="version", version=f"at2 {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("serve", help="start a server; at2 serve --help has its settings")

    ask = commands.add_parser(
        "ask",
        help="have a question answered from files, with citations",
        description="Have a question answered from files. Each statement of the answer is "
        "followed by the sources that count for it: those with at least --min-share of all "
        "positive scores.",
    )
    ask.set_defaults(run=_ask)
    ask.add_argument("query", help="the question or task")
    _add_common(ask, most=_MOST_CITATIONS, what="citations of a statement")
    ask.add_argument("--max-new-tokens", type=int, metavar="N", help="the most tokens to write")
    ask.add_argument("--temperature", type=float, metavar="T", help="0, the default, is greedy")
    ask.add_argument("--top-p", type=float, metavar="P", help="share of probability to sample from")
    ask.add_argument("--seed", type=int, metavar="N", help="makes sampling repeatable")

    attribute = commands.add_parser(
        "attribute",
        help="rank the sources of a response, wherever it was written",
        description="Rank the sources of a response, wherever it was written: of each of its "
        "statements, or of one span.",
    )
    attribute.set_defaults(run=_attribute)
    attribute.add_argument("--query", required=True, help="what the response answers")
    attribute.add_argument(
        "--response", required=True, metavar="FILE|TEXT", help="the response; - is standard input"
    )
    span = attribute.add_mutually_exclusive_group()
    span.add_argument(
        "--span",
        nargs=2,
        type=int,
        metavar=("START", "END"),
        help="characters of the response to attribute",
    )
    span.add_argument("--quote", metavar="TEXT", help="part of the response to attribute")
    attribute.add_argument(
        "--verify", action="store_true", help="really hide the sources, and show what that does"
    )
    _add_common(attribute, most=_MOST_SOURCES, what="sources of a span")
    calibrate.add_command(commands)
    return parser


def _add_common(parser: argparse.ArgumentParser, *, most: int, what: str) -> None:
    parser.add_argument(
        "--context",
        action="append",
        required=True,
        metavar="FILE",
        help="a document to answer from; several if given again; - is standard input",
    )
    parser.add_argument(
        "--url",
        default=os.environ.get("AT2_URL") or DEFAULT_URL,
        help="of the server; also AT2_URL (default: %(default)s)",
    )
    parser.add_argument(
        "--key",
        default=os.environ.get("AT2_API_KEY"),
        help="for the server; better AT2_API_KEY, as flags can be seen by others",
    )
    parser.add_argument("--json", action="store_true", help="print the server's replies instead")
    parser.add_argument(
        "--top-k", type=int, default=most, metavar="N", help=f"the most {what} (default: {most})"
    )
    parser.add_argument(
        "--min-share",
        type=float,
        metavar="P",
        help=f"share of all positive scores from which on a source is cited "
        f"(default: {DEFAULT_MIN_SHARE})",
    )
    parser.add_argument(
        "--support",
        action="store_true",
        help="measure whether the context made the model say it, and show what that means",
    )
    parser.add_argument(
        "--source-type", choices=get_args(SourceType), help="what the documents are cut into"
    )
    methods = get_args(Method)
    parser.add_argument(
        "--method", choices=methods, metavar="NAME", help=f"how: {', '.join(methods)}"
    )
    parser.add_argument("--estimator", metavar="NAME", help="one of the server's estimators")


def _version() -> str:
    try:
        return version("at2-service")
    except PackageNotFoundError:
        return "not installed"


# -- commands ------------------------------------------------------------------------------------


def _ask(options: argparse.Namespace) -> int:
    documents = _documents(options.context)
    with Client(options.url, key=options.key) as client:
        generation = client.generate(
            options.query,
            documents=documents,
            source_type=options.source_type,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
        )
        attribution = _statements(client, generation, options, documents)
    attributions = attribution.attributions if attribution else []
    if options.json:
        _print_json({"generation": generation, "attribution": attribution})
    else:
        print_answer(_console(), generation, attributions, options.context)
    return 0


def _statements(
    client: Client,
    generation: GenerateReply,
    options: argparse.Namespace,
    documents: list[dict[str, str]],
) -> AttributeReply | None:
    """The attribution of every statement; None if there is nothing to attribute."""
    if not generation.statements:
        return None
    how: dict[str, Any] = {
        "split_by": "sentence",
        "top_k": options.top_k,
        "min_share": options.min_share,
        "method": options.method,
        "estimator": options.estimator,
        "support": options.support,
    }
    if generation.expires is not None:
        return client.attribute(generation, **how)
    return client.attribute(  # a server that keeps nothing must be told it all again
        query=options.query,
        documents=documents,
        response=generation.response,
        source_type=options.source_type,
        **how,
    )


def _attribute(options: argparse.Namespace) -> int:
    if options.response == STDIN and STDIN in options.context:
        raise _UsageError("- can be given only once")
    whole = options.span is None and options.quote is None
    with Client(options.url, key=options.key) as client:
        attribution = client.attribute(
            query=options.query,
            documents=_documents(options.context),
            response=_response(options.response),
            span=tuple(options.span) if options.span else None,
            quote=options.quote,
            split_by="sentence" if whole else None,
            source_type=options.source_type,
            top_k=options.top_k,
            min_share=options.min_share,
            method=options.method,
            estimator=options.estimator,
            verify=options.verify,
            support=options.support,
        )
    if options.json:
        _print_json(attribution)
    else:
        print_attributions(_console(), attribution.attributions, options.context)
    return 0


# -- files and output ----------------------------------------------------------------------------


def _documents(names: Sequence[str]) -> list[dict[str, str]]:
    if names.count(STDIN) > 1:
        raise _UsageError("- can be given only once")
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
        raise _UsageError(f"{name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _UsageError(f"{name}: not UTF-8 text") from error
    if not text.strip():
        raise _UsageError(f"{name}: there is no text in it")
    return text


def _response(response: str) -> str:
    try:
        is_file = response == STDIN or Path(response).is_file()
    except OSError:  # too long for a name
        is_file = False
    return _read(response) if is_file else response


def _console() -> Console:
    """For standard output; colours only at a terminal, and never with NO_COLOR."""
    return Console(markup=False, highlight=False, emoji=False)


def _print_json(value: Any) -> None:
    text = json.dumps(value, default=lambda reply: reply.model_dump(), ensure_ascii=False, indent=2)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
