"""The `at2` command: what it asks, what it prints, and how it fails."""

import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from service import cli
from service.citations import plain, print_answer, print_attributions
from service.lifecycle import Lifecycle
from service.reply_schemas import GenerateReply, ScoredSource, SpanAttribution
from tests.helpers.servers import serving, settings

ESCAPE = "\x1b[31m[bold]red[/bold]\x1b]0;title\x07"
STEERING = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
FIRST, SECOND, THIRD = "Ann works in Rome.", "Ann lives in Oslo. [1] :smile:", f"Nothing. {ESCAPE}"


def _source(index: int, text: str, score: float, rank: int, *, cited: bool) -> ScoredSource:
    return ScoredSource(
        index=index,
        document=0,
        document_id=None,
        start=0,
        end=len(text),
        text=text,
        rank=rank,
        score=score,
        cited=cited,
    )


GENERATION = GenerateReply(
    id="gen-1",
    model="m",
    created=1,
    expires=2,
    response=f"Ann lives in Oslo.  She works in Rome.{ESCAPE}\nAnd?",
    finish_reason="stop",
    usage={"prompt_tokens": 1, "completion_tokens": 1},
    sources=[],
    statements=[
        {"start": 0, "end": 18, "text": "Ann lives in Oslo."},
        {"start": 20, "end": 38, "text": "She works in Rome."},
    ],
)


def _span(start: int, end: int, sources: list[ScoredSource]) -> SpanAttribution:
    text = GENERATION.response[start:end]
    return SpanAttribution(start=start, end=end, text=text, attributed_text=text, sources=sources)


SPANS = [
    _span(0, 18, [_source(1, SECOND, 0.4, 1, cited=True), _source(0, FIRST, 0.1, 2, cited=False)]),
    _span(
        20,
        38,
        [
            _source(0, FIRST, 0.4, 1, cited=True),
            _source(1, SECOND, 0.2, 2, cited=True),
            _source(2, THIRD, -1, 3, cited=False),
        ],
    ),
]


def _printed(*, terminal: bool, width: int = 40, no_color: bool = False) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=terminal,
        width=width,
        no_color=no_color,
        color_system="standard" if terminal else None,
    )
    print_answer(console, GENERATION, SPANS, ["a.txt", "b.txt"])
    print_attributions(console, SPANS, ["a.txt", "b.txt"])
    return out.getvalue()


# -- what is printed -----------------------------------------------------------------------------


def test_statements_are_followed_by_their_citations_and_sources_stand_below() -> None:
    out = io.StringIO()
    print_answer(Console(file=out, width=20), GENERATION, SPANS, ["a.txt"])
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("Ann lives in Oslo. [1]  She works in Rome. [2] [1]")
    assert lines[1:4] == ["And?", "", f"[1] a.txt:0:{len(SECOND)}"]
    assert lines[4:] == [f"    {SECOND}", f"[2] a.txt:0:{len(FIRST)}", f"    {FIRST}"]


def test_what_the_context_is_worth_stands_after_a_statement() -> None:
    out = io.StringIO()
    first, second = SPANS
    found = [
        first.model_copy(update={"support": 0.012, "verdict": "from memory"}),
        second.model_copy(update={"support": 1.2}),
    ]
    print_answer(Console(file=out, width=200), GENERATION, found, ["a.txt"])
    assert "Oslo. [1] (from memory)" in out.getvalue()
    assert "Rome. [2] [1] (support +1.20 nats a token)" in out.getvalue()
    print_attributions(Console(file=out, width=200), found, ["a.txt"])
    assert "0:18  from memory" in out.getvalue()


def test_an_answer_that_was_cut_off_says_so() -> None:
    out = io.StringIO()
    cut = GENERATION.model_copy(update={"finish_reason": "length"})
    print_answer(Console(file=out), cut, [], [])
    assert "cut off" in out.getvalue()


def test_a_terminal_gets_colours_unless_it_wants_none() -> None:
    assert "\x1b[" in _printed(terminal=True)
    assert not re.search(r"\x1b\[[\d;]*3[1-6]", _printed(terminal=True, no_color=True))
    assert "\x1b" not in _printed(terminal=False)


@pytest.mark.parametrize("terminal", [False, True])
def test_user_text_is_never_markup_or_a_control_sequence(terminal: bool) -> None:
    printed = _printed(terminal=terminal, width=200)
    assert "[bold]red[/bold]" in printed and "[1] :smile:" in printed
    assert "\x1b[31m[bold]" not in printed and "\x1b]" not in printed and "\x07" not in printed


@given(st.text())
def test_printed_text_keeps_all_that_does_not_steer(text: str) -> None:
    shown, text = plain(text).plain, text.replace("\r\n", "\n")
    assert not re.search(STEERING, shown)
    assert all(a == b or re.match(STEERING, a) for a, b in zip(text, shown, strict=True))


def test_a_ranking_says_which_sources_do_not_count() -> None:
    out = io.StringIO()
    print_attributions(Console(file=out, width=80), SPANS, ["a.txt"])
    lines = [line for line in out.getvalue().splitlines() if "a.txt:" in line]
    assert ["not cited" in line for line in lines] == [False, True, False, False, True]


# -- what is asked -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replies() -> Iterator[dict[str, Any]]:
    """A server that says what the test puts in, and keeps what it was asked."""
    state: dict[str, Any] = {}
    app = FastAPI()

    @app.post("/{name}")
    async def anything(name: str, request: Request) -> Response:
        body = await request.json()
        state["asked"].append((name, body, request.headers.get("authorization")))
        return JSONResponse(*state[name])

    with serving(app, settings(), Lifecycle()) as (address, _):
        state["address"] = address
        yield state


@pytest.fixture()
def scripted(
    replies: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[str, Any]:
    found = {
        "id": None,
        "model": "m",
        "method": "at2",
        "estimator": "e",
        "attributions": [span.model_dump() for span in SPANS],
    }
    replies.update(asked=[], generate=(GENERATION.model_dump(),), attribute=(found,))
    monkeypatch.setenv("AT2_URL", replies["address"])
    monkeypatch.delenv("AT2_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_bytes("Ann works in Rome.\r\nÉté 😀.".encode())
    Path("b.txt").write_text(SECOND)
    return replies


def test_ask_sends_files_as_documents_byte_by_byte(
    scripted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--seed", "0", "--stop", "\n", "--stop", "- "]
    assert cli.main(["ask", "--context", "a.txt", "--context", "b.txt", "Where?", *flags]) == 0
    documents = [
        {"id": "a.txt", "text": "Ann works in Rome.\r\nÉté 😀."},
        {"id": "b.txt", "text": SECOND},
    ]
    assert scripted["asked"] == [
        (
            "generate",
            {"query": "Where?", "documents": documents, "seed": 0, "stop": ["\n", "- "]},
            None,
        ),
        ("attribute", {"id": "gen-1", "split_by": "sentence", "top_k": 3}, None),
    ]
    assert "Ann lives in Oslo. [1]" in capsys.readouterr().out


def test_ask_tells_a_server_that_keeps_nothing_all_again(scripted: dict[str, Any]) -> None:
    scripted["generate"] = (GENERATION.model_copy(update={"expires": None}).model_dump(),)
    assert cli.main(["ask", "--context", "b.txt", "Where?", "--method", "random"]) == 0
    _, body, _ = scripted["asked"][1]
    assert "id" not in body
    assert body["response"] == GENERATION.response and body["query"] == "Where?"
    assert body["method"] == "random"


def test_an_empty_answer_is_not_attributed(
    scripted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    empty = GENERATION.model_copy(update={"response": "", "statements": []})
    scripted["generate"] = (empty.model_dump(),)
    assert cli.main(["ask", "--context", "b.txt", "Where?"]) == 0
    assert len(scripted["asked"]) == 1
    assert capsys.readouterr().out.strip() == ""


def test_any_file_name_becomes_an_id(scripted: dict[str, Any]) -> None:
    folder = "/".join(["d" * 200] * 2)
    Path(folder).mkdir(parents=True)
    for name in (f"{folder}/a.txt", "\udcff.txt"):
        Path(name).write_text(SECOND)
        assert cli.main(["ask", "--context", name, "Where?"]) == 0
    ids = [body["documents"][0]["id"] for _, body, _ in scripted["asked"][::2]]
    assert ids == [f"{folder}/a.txt"[-256:], "\N{REPLACEMENT CHARACTER}.txt"]


def test_a_terminal_that_does_not_know_a_letter_gets_its_number(
    scripted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    scripted["generate"] = (GENERATION.model_copy(update={"response": "Été 😀"}).model_dump(),)
    assert cli.main(["ask", "--context", "b.txt", "Where?", "--json"]) == 0
    sys.stdout.flush()
    assert rb"\xc9t\xe9 \U0001f600" in raw.getvalue()


def test_the_key_comes_from_the_environment_or_a_flag(
    scripted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AT2_API_KEY", "from-env")
    cli.main(["ask", "--context", "b.txt", "Where?"])
    cli.main(["ask", "--context", "b.txt", "Where?", "--key", "from-flag"])
    assert [key for _, _, key in scripted["asked"]] == ["Bearer from-env"] * 2 + [
        "Bearer from-flag"
    ] * 2


def test_json_is_the_servers_own(
    scripted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["ask", "--context", "b.txt", "Where?", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["generation"] == GENERATION.model_dump()
    assert printed["attribution"]["attributions"][1]["sources"][2]["text"] == THIRD
    cli.main(["attribute", "--context", "b.txt", "--query", "q", "--response", "r", "--json"])
    assert json.loads(capsys.readouterr().out)["estimator"] == "e"


def test_json_says_what_could_steer_a_terminal_in_escapes(
    scripted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    steering = "\x9b2J \x7f \u202e \r \x1b[2J"
    steered = GENERATION.model_copy(update={"response": f"Été {steering}"})
    scripted["generate"] = (steered.model_dump(),)
    assert cli.main(["ask", "--context", "b.txt", "Where?", "--json"]) == 0
    printed = capsys.readouterr().out
    assert "Été" in printed and not re.search(STEERING, printed)
    assert json.loads(printed)["generation"]["response"] == f"Été {steering}"


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ([], {"split_by": "sentence"}),
        (["--span", "4", "9"], {"start": 4, "end": 9}),
        (["--quote", "lives"], {"quote": "lives"}),
        (["--min-share", "0.4"], {"split_by": "sentence", "min_share": 0.4}),
        (["--support"], {"split_by": "sentence", "support": True}),
        (["--verify", "--top-k", "2"], {"split_by": "sentence", "verify": True, "top_k": 2}),
    ],
)
@pytest.mark.parametrize("from_file", [False, True])
def test_attribute_takes_a_response_from_anywhere(
    scripted: dict[str, Any], arguments: list[str], body: dict[str, Any], from_file: bool
) -> None:
    Path("response.txt").write_text("Ann lives.")
    response = "response.txt" if from_file else "Ann lives."
    command = ["attribute", "--context", "b.txt", "--query", "q", "--response", response]
    assert cli.main(command + arguments) == 0
    documents = [{"id": "b.txt", "text": SECOND}]
    asked = {"query": "q", "documents": documents, "response": "Ann lives.", "top_k": 5} | body
    assert scripted["asked"] == [("attribute", asked, None)]


def test_standard_input_is_a_document(
    scripted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Été.\r\n".encode())))
    assert cli.main(["ask", "--context", "-", "Where?"]) == 0
    assert scripted["asked"][0][1]["documents"] == [{"id": "-", "text": "Été.\r\n"}]


# -- how it fails --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["ask", "--context", "none.txt", "q"], "none.txt: No such file"),
        (["ask", "--context", ".", "q"], ".: Is a directory"),
        (["ask", "--context", "empty.txt", "q"], "empty.txt: there is no text"),
        (["ask", "--context", "binary.txt", "q"], "binary.txt: not UTF-8"),
        (["ask", "--context", "-", "--context", "-", "q"], "only once"),
        (["attribute", "--context", "-", "--query", "q", "--response", "-"], "only once"),
        (["attribute", "--context", "b.txt", "--query", "q", "--response", "empty.txt"], "empty"),
        (["ask", "--context", "b.txt", "q", "--url", "http://127.0.0.1:1"], "at2 serve"),
        (["ask", "--context", "b.txt", "q", "--url", "nowhere"], "nowhere"),
        (["ask", "--context", "b.txt", "q", "--temperature", "nan"], "cannot be sent"),
        (["ask", "--context", "b.txt", "q", "--key", "ключ"], "cannot be sent"),
        (["ask", "--context", "b.txt", "\udcff"], "cannot be sent"),
    ],
)
def test_an_error_is_one_line(
    scripted: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    Path("empty.txt").write_text(" \n")
    Path("binary.txt").write_bytes(b"\xff\x00")
    assert cli.main(arguments) == 1
    out, error = capsys.readouterr()
    assert not out
    assert error.startswith("at2: ") and error.count("\n") == 1 and named in error


@pytest.mark.parametrize(("status", "hint"), [(400, ""), (401, "AT2_API_KEY"), (500, "")])
def test_what_the_server_says_is_passed_on(
    scripted: dict[str, Any], capsys: pytest.CaptureFixture[str], status: int, hint: str
) -> None:
    error = {"message": "no, because", "type": "t", "param": None, "code": "c"}
    scripted["generate"] = ({"error": error}, status)
    assert cli.main(["ask", "--context", "b.txt", "q"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("at2: no, because") and hint in printed


def test_what_the_server_says_does_not_steer_a_terminal(
    scripted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    message = "no\rat2: fine\n\x1b[2J\x9b1A\u202e."
    error = {"message": message, "type": "t", "param": None, "code": "c"}
    scripted["generate"] = ({"error": error}, 400)
    assert cli.main(["ask", "--context", "b.txt", "q"]) == 1
    assert capsys.readouterr().err == "at2: no at2: fine ␛[2J�1A�.\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["ask", "q"], "--context"),
        (["ask", "--context", "b.txt"], "QUERY"),
        (["ask", "--context", "b.txt", "q", "--top-k", "x"], '--top-k: unable to convert "x"'),
        (["ask", "--context", "b.txt", "q", "--method", "magic"], '"magic" for --method'),
        (["ask", "--context", "b.txt", "q", "--contxt", "c"], "--contxt"),
        ("attribute --context b --query q --response r --span 1".split(), "--span requires 2"),
        (
            "attribute --context b --query q --response r --span 1 2 --quote x".split(),
            "{--span, --quote}",
        ),
        (["bake"], '"bake"'),
        (["serve", "--prt", "1"], "--prt"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert cli.main(arguments) == 2
    out, error = capsys.readouterr()
    assert not out and named in error and error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["ask", "--help"], ["attribute", "--help"]])
def test_a_pipe_that_nobody_reads_ends_it_without_a_word(arguments: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "service.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_without_a_command_all_of_them_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == shown.err
    assert all(word in shown.err for word in ("serve", "ask", "attribute", "calibrate"))


@pytest.mark.parametrize("command", ["ask", "attribute", "calibrate"])
def test_every_argument_has_its_words(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert cli.main([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    arguments = cli.app[command].assemble_argument_collection(parse_docstring=True)
    for argument in arguments.filter_by(show=True):
        assert argument.parameter.help
        assert argument.name in shown and argument.parameter.help in shown


@pytest.mark.parametrize(
    "arguments",
    [["ask", "--help"], ["calibrate", "no-such-file", "--out", "x"], ["serve", "--port", "x"]],
)
def test_the_command_loads_no_model_library(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom service import cli\n"
        f"cli.main({arguments})\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_serve_has_a_flag_for_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    from service.settings import Settings

    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "at2 serve" in shown and "AT2_" in shown
    words = re.sub(r"-\s*\n\s+", "-", shown)
    for name in Settings.model_fields:
        assert re.search(rf"--{name.replace('_', '-')}\b", words), name


@pytest.mark.parametrize(
    ("flags", "environment", "named"),
    [
        (["--port", "x"], {}, "AT2_PORT='x'"),
        ([], {"AT2_PORT": "70000"}, "AT2_PORT='70000'"),
        (["--port", "-1"], {"AT2_PORT": "1"}, "AT2_PORT='-1'"),
        (["--host", "0.0.0.0"], {}, "AT2_ALLOW_NO_KEY"),
        (["--host", "0.0.0.0", "--no-allow-no-key"], {"AT2_API_KEYS": ""}, "AT2_ALLOW_NO_KEY"),
        ([], {"AT2_API_KEYS": "secret"}, "at least 16"),
        (["--api-keys-file", "no/such"], {}, "no/such: No such file"),
        (["--cors-origins", "example.org"], {}, "AT2_CORS_ORIGINS"),
        (["--request-seconds", "inf"], {}, "AT2_REQUEST_SECONDS='inf'"),
        (["--request-seconds", "1e9"], {}, "AT2_REQUEST_SECONDS='1e9'"),
        (["--shutdown-seconds", "nan"], {}, "AT2_SHUTDOWN_SECONDS='nan'"),
        ([], {"AT2_STORE_SECONDS": "1" + "0" * 20}, "AT2_STORE_SECONDS"),
        ([], {"AT2_CACHE_TOKENS": "1" + "0" * 12}, "AT2_CACHE_TOKENS"),
        ([], {"AT2_ESTIMATORS": '{"a": 1}'}, "AT2_ESTIMATORS.a=1"),
    ],
)
def test_a_server_with_a_wrong_setting_says_which_and_does_not_start(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    environment: dict[str, str],
    named: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["serve", *flags]) == 2
    printed = capsys.readouterr().err
    assert named in printed and printed.count("\n") == 1 and "secret" not in printed
