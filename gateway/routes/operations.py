"""For operators and their machines: health, metrics, and what the routes are."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse

from gateway import metrics
from gateway.access.address import is_local
from gateway.access.caller import Scope
from gateway.access.identification import caller_of
from gateway.errors import GatewayError
from gateway.lifecycle import lifecycle_of
from gateway.security_headers import DOCS_POLICY

router = APIRouter(tags=["Operations"])

# What is wrong, to whoever has not said who he is: no address of a database, no path.
ASK_AN_ADMIN = "Something is wrong: an admin is told what, and so is the log."


@router.get("/health/live", summary="Is the process alive?")
async def live() -> dict[str, str]:
    """Needs neither the engine nor the database: restart the process when this fails."""
    return {"status": "alive"}


@router.get("/health/ready", summary="May requests come?")
async def ready(request: Request, response: Response) -> dict[str, object]:
    """503 while requests are refused: draining, the engine gone and no fallback for it, rows that nothing
    takes. While they are taken although something is wrong, as PostgreSQL being away or a fallback answering,
    `status` is `degraded`; `problems` says what, with authentication only to an admin and on the gateway's
    own machine.
    """
    health = await lifecycle_of(request).health()
    if not health.ready:
        response.status_code = 503
    status = "not ready" if not health.ready else "degraded" if health.problems else "ready"
    problems = health.problems
    if problems and not await may_know(request):
        problems = [ASK_AN_ADMIN]
    return {"status": status, "problems": problems}


@router.get("/health", summary="May requests come? (for routers)", response_class=Response)
async def health(request: Request) -> Response:
    """As vLLM's own: a status and no body, 200 or 503, whatever `/health/ready` says."""
    return Response(status_code=200 if (await lifecycle_of(request).health()).ready else 503)


@router.get("/load", summary="How many requests run? (for routers)")
async def load(request: Request) -> dict[str, int]:
    """As vLLM's own: requests that were let in and have not ended, those in the queue among them."""
    return {"server_load": len(lifecycle_of(request).generations)}


@router.get("/get_load", summary="How many requests run? (for vllm-router)")
async def get_load(request: Request) -> dict[str, int]:
    """The same under the name that vllm-router's policy power_of_two asks for, which vLLM does not serve:
    github.com/vllm-project/router/issues/174."""
    return {"load": len(lifecycle_of(request).generations)}


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def prometheus_metrics(request: Request) -> Response:
    """The gateway's own under `gateway_`, and vLLM's under `vllm:`; of several processes their sums."""
    await check_reader(request, public=lifecycle_of(request).settings.metrics_public)
    return Response(await metrics.exposition(), media_type=metrics.CONTENT_TYPE)


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """Every route."""
    await check_reader(request, public=lifecycle_of(request).settings.docs_public)
    return JSONResponse(request.app.openapi())


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """A page that shows them."""
    await check_reader(request, public=lifecycle_of(request).settings.docs_public)
    root = request.scope.get("root_path", "").rstrip("/")
    page = get_swagger_ui_html(openapi_url=f"{root}/openapi.json", title=f"{request.app.title} - Swagger UI")
    page.headers["content-security-policy"] = DOCS_POLICY
    return page


async def may_know(request: Request) -> bool:
    """Whether what is wrong may be told. Never fails: who asks may not be known just because of that."""
    if not lifecycle_of(request).settings.authenticates or is_local(request):
        return True
    try:
        return (await caller_of(request, Scope.ADMIN)).is_admin
    except GatewayError:
        return False


async def check_reader(request: Request, *, public: bool) -> None:
    """With authentication only an admin may read what is not ``public``. Raises GatewayError."""
    if lifecycle_of(request).settings.authenticates and not public:
        await caller_of(request, Scope.ADMIN)
