"""For operators and their machines: health and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.lifecycle import lifecycle_of

router = APIRouter(tags=["Operations"])


@router.get("/health/live", summary="Is the process alive?")
async def live() -> dict[str, str]:
    """Needs neither the engine nor the database: restart the process when this fails."""
    return {"status": "alive"}


@router.get("/health/ready", summary="May requests come?")
async def ready(request: Request, response: Response) -> dict[str, object]:
    """503 while requests are refused: draining, the engine gone and no fallback for it, rows that nothing
    takes. While they are taken although something is wrong, as PostgreSQL being away or a fallback answering,
    `status` is `degraded`; `problems` says what.
    """
    health = await lifecycle_of(request).health()
    if not health.ready:
        response.status_code = 503
    status = "not ready" if not health.ready else "degraded" if health.problems else "ready"
    return {"status": status, "problems": health.problems}


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics() -> Response:
    """The gateway's own under `gateway_`, and vLLM's under `vllm:`."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
