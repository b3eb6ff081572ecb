"""The HTTP interface's routes: thin, over `StreamControl` and the run's status."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from pipeline import __version__
from pipeline.control import _schemas as schemas
from pipeline.control import _views as views
from pipeline.control._guard import Guard
from pipeline.control._metrics import make_registry
from pipeline.control.streams import StreamControl
from pipeline.errors import SourceError, StreamStateError, UnknownStreamError, VramlineError
from pipeline.observe.text import safe

# FastAPI would give requests with all that they hold, and errors, to an OpenTelemetry that the process happens to use.
_NO_TELEMETRY: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)

_STATUS_CODES: dict[type[VramlineError], int] = {UnknownStreamError: 404, StreamStateError: 409, SourceError: 422}

_DESCRIPTION = """The streams of a run, while it runs. Everything but `/healthz` and `/readyz` needs the bearer token.

An id may hold slashes, written as they are or as `%2F`. What is asked of a stream (202) is under way, not done yet:
`GET /streams/{id}` shows how it goes."""

# The guard in front of the routes checks the token; this only describes it.
_BEARER = [Depends(HTTPBearer(auto_error=False, description="observe.http.token of the configuration."))]
_DENIED: dict[int | str, dict[str, Any]] = {401: {"model": schemas.Error, "description": "Wrong or no token"}}
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": schemas.Error, "description": "No such stream"}}
_UNFIT: dict[int | str, dict[str, Any]] = {409: {"model": schemas.Error, "description": "Does not fit its state"}}
_INVALID: dict[int | str, dict[str, Any]] = {422: {"model": schemas.Error, "description": "The request is wrong"}}

_WORDS = {"extra_forbidden": "unknown key", "missing": "missing", "model_attributes_type": "not a mapping"}
_WORDS_OF_BODY = {
    "json_invalid": "the body is no JSON",
    "missing": "the request has no body",
    "model_attributes_type": "the body is no mapping",
}

_StreamId = Annotated[str, Path(description="The stream's id; slashes may stand as they are or as `%2F`.")]


def make_app(control: StreamControl, token: str, hosts: Collection[str] | None) -> FastAPI:
    """The application; see `pipeline.control.http.build_app`."""
    app = FastAPI(
        title="vramline",
        version=__version__,
        description=_DESCRIPTION,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,  # older versions have none and ignore it
    )
    app.include_router(_streams(control))
    app.include_router(_run(control))
    app.include_router(_probes(control))
    app.add_exception_handler(VramlineError, _show_error)
    app.add_exception_handler(RequestValidationError, _show_invalid)
    app.add_exception_handler(HTTPException, _show_http_error)
    app.add_middleware(Guard, token=token, hosts=hosts)
    return app


def _streams(control: StreamControl) -> APIRouter:
    # The functions are not `async`: they run in worker threads, so that one that waits holds up no other.
    router = APIRouter(tags=["streams"], dependencies=_BEARER, responses=_DENIED)

    @router.get("/streams")
    def list_streams() -> schemas.Streams:
        """All streams of the run."""
        return schemas.Streams(streams=[views.stream(source) for source in views.snapshot(control.status)])

    @router.post("/streams", status_code=201, responses=_INVALID)
    def add_stream(source: schemas.NewSource) -> schemas.Added:
        """Adds what a source names; `path` is relative to the working directory of the run."""
        return schemas.Added(ids=[safe(stream_id) for stream_id in control.add_source(source.root)])

    # An id may end like an action. Nothing is mistaken: only actions are POST, and each names itself last.
    @router.post("/streams/{stream_id:path}/pause", status_code=202, responses=_UNKNOWN | _UNFIT)
    def pause_stream(stream_id: _StreamId) -> schemas.Accepted:
        """Disconnects a live stream until it is resumed."""
        control.pause_source(views.find_id(control.status, stream_id))
        return schemas.Accepted(accepted="pause", id=stream_id)

    @router.post("/streams/{stream_id:path}/resume", status_code=202, responses=_UNKNOWN | _UNFIT)
    def resume_stream(stream_id: _StreamId) -> schemas.Accepted:
        """Connects a paused live stream again."""
        control.resume_source(views.find_id(control.status, stream_id))
        return schemas.Accepted(accepted="resume", id=stream_id)

    @router.post("/streams/{stream_id:path}/restart", status_code=202, responses=_UNKNOWN | _UNFIT)
    def restart_stream(stream_id: _StreamId) -> schemas.Accepted:
        """Connects a live stream anew at once, also one that failed or is backing off."""
        control.restart_source(views.find_id(control.status, stream_id))
        return schemas.Accepted(accepted="restart", id=stream_id)

    @router.get("/streams/{stream_id:path}", responses=_UNKNOWN)
    def show_stream(stream_id: _StreamId) -> schemas.Stream:
        """One stream."""
        source = control.status.sources.get(views.find_id(control.status, stream_id))
        if source is None:
            raise UnknownStreamError(stream_id)
        return views.stream(source)

    @router.patch("/streams/{stream_id:path}", status_code=202, responses=_UNKNOWN | _UNFIT | _INVALID)
    def change_stream(stream_id: _StreamId, change: schemas.Change) -> schemas.Accepted:
        """Changes a stream's share of the model where that cannot keep up."""
        control.set_priority(views.find_id(control.status, stream_id), change.priority)
        return schemas.Accepted(accepted="priority", id=stream_id)

    @router.delete("/streams/{stream_id:path}", status_code=202, responses=_UNKNOWN | _UNFIT)
    def remove_stream(stream_id: _StreamId) -> schemas.Accepted:
        """Ends a stream and forgets it; its results so far stay."""
        control.remove_source(views.find_id(control.status, stream_id))
        return schemas.Accepted(accepted="remove", id=stream_id)

    return router


def _run(control: StreamControl) -> APIRouter:
    router = APIRouter(tags=["run"], dependencies=_BEARER, responses=_DENIED)
    registry = make_registry(control.status)

    @router.get("/run")
    def show_run() -> schemas.Run:
        """The run as a whole."""
        return views.run(control.status)

    @router.post("/run/stop", status_code=202)
    def stop_run() -> schemas.Accepted:
        """Ends the run cleanly, and with it this interface."""
        control.stop()
        return schemas.Accepted(accepted="stop")

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def show_metrics() -> Response:
        """The run and the process as Prometheus metrics."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


def _probes(control: StreamControl) -> APIRouter:
    # These are `async`, and so wait for no worker thread.
    router = APIRouter(tags=["probes"])

    @router.get("/healthz")
    async def health() -> schemas.Health:
        """Answers while the process does."""
        return schemas.Health(status="ok")

    @router.get("/readyz", responses={503: {"model": schemas.Error, "description": "Not ready, and why"}})
    async def readiness(response: Response) -> schemas.Health:
        """Whether the run has started and at least one stream runs, or there are none."""
        reason = views.why_not_ready(control.status)
        if reason is not None:
            raise HTTPException(503, reason)
        return schemas.Health(status="ready")

    return router


def _show_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, VramlineError)
    status = next((code for kind, code in _STATUS_CODES.items() if isinstance(error, kind)), 500)
    code = error.code if isinstance(error, SourceError) else None
    return _error(status, schemas.Error(error=error.message, remedy=error.remedy, code=code))


def _show_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, schemas.Error(error=error.detail), error.headers)


def _show_invalid(_: Request, error: Exception) -> JSONResponse:
    """What is wrong with which field. Never what was found there: it may be a password."""
    assert isinstance(error, RequestValidationError)
    issues = [_issue(each) for each in error.errors()]
    text = "; ".join(": ".join(part for part in (issue.field, issue.message) if part) for issue in issues)
    return _error(422, schemas.Error(error=text, fields=issues))


def _issue(error: dict[str, Any]) -> schemas.FieldIssue:
    kind, where = error["type"], error["loc"][1:]  # the first says only that it is in the body
    if kind == "json_invalid":
        where = ()  # it says at which character
    words = _WORDS if where else _WORDS_OF_BODY
    # What our own validators say stands in `ctx`; `msg` has "Value error, " in front of it.
    message = str(error["ctx"]["error"]) if kind == "value_error" else words.get(kind, error["msg"])
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).removeprefix(".")
    return schemas.FieldIssue(field=safe(field), message=safe(message))


def _error(status: int, error: schemas.Error, headers: Any = None) -> JSONResponse:
    content = error.model_dump(mode="json", exclude_none=True)
    content["error"] = safe(content["error"])
    if error.remedy is not None:
        content["remedy"] = safe(error.remedy)
    return JSONResponse(content, status, headers=headers)
