"""GET / and its files, and what the page needs beside the API: prompts and export of generations.

The files hold nothing of anybody's and are served without a key; what belongs to a generation is
not.
"""

from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse

from service.dependencies import CallerDep, EngineDep, StoreDep, kept_generation
from service.disconnect import connected
from service.engine import Question
from service.errors import DOCUMENTED
from service.field_types import DEFAULT_TOP_K, Method, SourceType
from service.page import INDEX, Asset, assets
from service.reply_schemas import PromptReply

router = APIRouter(tags=["generation"], responses=DOCUMENTED)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do: no script and no style stands in the document itself."""

_EXPORT_POLICY = "sandbox; default-src 'none'"
"""An export is a file to keep: it does nothing at this server's own address."""

IfNoneMatch = Annotated[str | None, Header()]


def _file(asset: Asset, if_none_match: str | None) -> Response:
    headers = {
        "ETag": asset.etag,
        "Cache-Control": "no-cache",  # asked for again, and not sent again
        "Content-Security-Policy": POLICY,
    }
    if if_none_match is not None and asset.etag in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def page(if_none_match: IfNoneMatch = None) -> Response:
    """The page."""
    return _file(assets()[INDEX], if_none_match)


@router.get("/page/{name}", include_in_schema=False)
async def file(name: str, if_none_match: IfNoneMatch = None) -> Response:
    """A script, the style sheet, or data of the page."""
    asset = assets().get(name)
    if asset is None:
        raise HTTPException(404)
    return _file(asset, if_none_match)


@router.get("/generations/{generation_id}/prompt")
async def get_prompt(generation_id: str, store: StoreDep, caller: CallerDep) -> PromptReply:
    """What a generation was asked; a context is one document without a title."""
    generation = (await kept_generation(store, generation_id, caller)).generation
    prompt = generation.prompt
    return PromptReply.model_validate(
        {
            "documents": [
                {"id": d.id, "title": d.title, "text": d.text} for d in generation.source_documents
            ],
            "query": prompt.query,
            "messages": [{"role": role, "content": text} for role, text in prompt.messages],
        }
    )


@router.get(
    "/generations/{generation_id}/export.html",
    response_class=Response,  # errors are JSON: with HTML's class they would be documented as HTML
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def export(
    generation_id: str,
    request: Request,
    engine: EngineDep,
    store: StoreDep,
    caller: CallerDep,
    source_type: SourceType | None = None,
    method: Method | None = None,
    estimator: str | None = None,
    top_k: Annotated[int, Query(ge=1, le=10_000)] = DEFAULT_TOP_K,
) -> HTMLResponse:
    """The attribution of every statement as one HTML file that stands alone."""
    generation = (await kept_generation(store, generation_id, caller)).generation
    question = Question(
        "sentence", method or engine.loaded.default_method, estimator, source_type, top_k
    )
    async with connected(request.receive, caller):
        content = await engine.page_of_generation(generation, question, caller)
    return HTMLResponse(
        content,
        headers={
            "Content-Disposition": f'attachment; filename="{generation.id}.html"',
            "Content-Security-Policy": _EXPORT_POLICY,
        },
    )
