"""GET /metrics."""

from fastapi import APIRouter, Request, Response

from service.metrics import Metrics

router = APIRouter(tags=["status"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request) -> Response:
    """What the server counts and times, in Prometheus' text format."""
    server_metrics: Metrics = request.app.state.metrics
    content, content_type = server_metrics.exposition(request.headers.get("accept", ""))
    return Response(content, media_type=content_type)
