"""Every error that a user can meet: status and code live on the class, the text says what to do.

``AssayError`` subclasses are raised by the engine and turned into
``{"error": ..., "code": ...}`` by the API, unchanged.
"""

from __future__ import annotations

from typing import Any


class AssayError(Exception):
    """Something went wrong."""

    status = 500
    code = "internal_error"

    def __init__(self, message: str | None = None, **extra: Any) -> None:
        self.message = message or (self.__doc__ or "").strip().split("\n")[0]
        #: additional members of the JSON error object, e.g. ``fields`` or ``archive_uri``
        self.extra = extra
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """The JSON object of the answer."""
        return {"error": self.message, "code": self.code, **self.extra}


class ConfigError(AssayError):
    """A setting is wrong; the process ends with exit code 64."""

    code = "bad_config"


class StartupError(AssayError):
    """The engine cannot start; the process ends with exit code 1."""

    code = "startup_failed"


class BadRequest(AssayError):
    """The request is malformed."""

    status, code = 400, "bad_request"


class InvalidJson(AssayError):
    """The request body is not valid JSON."""

    status, code = 400, "invalid_json"


class Unauthorized(AssayError):
    """Authentication is required: send Authorization: Bearer <key or token>."""

    status, code = 401, "unauthorized"


class CrossSiteRequest(AssayError):
    """This request looks like it comes from another site; send X-Requested-With or a JSON body."""

    status, code = 403, "cross_site_request"


class CsrfFailed(AssayError):
    """The X-CSRF-Token header does not match the session; read it from GET session and send it again."""

    status, code = 403, "csrf_failed"


class NotFound(AssayError):
    """No such path."""

    status, code = 404, "not_found"


class WorkflowNotFound(NotFound):
    """No workflow has this id."""

    code = "workflow_not_found"


class StateNotFound(NotFound):
    """This workflow has no state snapshot yet; its handler calls ctx:register_query to publish one."""

    code = "state_not_found"


class QueryNotFound(NotFound):
    """The workflow's state has no query of this name."""

    code = "query_not_found"


class ActivityNotFound(NotFound):
    """No activity has this id."""

    code = "activity_not_found"


class ScheduleNotFound(NotFound):
    """No schedule has this name in the namespace."""

    code = "schedule_not_found"


class NamespaceNotFound(NotFound):
    """No namespace has this name."""

    code = "namespace_not_found"


class UnknownWorker(NotFound):
    """No active worker has this id; register again."""

    code = "unknown_worker"


class ApiKeyNotFound(NotFound):
    """No API key has this prefix or id."""

    code = "api_key_not_found"


class MethodNotAllowed(AssayError):
    """This path does not take that method."""

    status, code = 405, "method_not_allowed"


class Conflict(AssayError):
    """The request conflicts with the current state."""

    status, code = 409, "conflict"


class WorkflowAlreadyExists(Conflict):
    """A workflow with this id already exists; choose another id."""

    code = "workflow_already_exists"


class ScheduleAlreadyExists(Conflict):
    """A schedule with this name already exists in the namespace."""

    code = "schedule_already_exists"


class NamespaceAlreadyExists(Conflict):
    """A namespace with this name already exists."""

    code = "namespace_already_exists"


class WorkflowClosed(Conflict):
    """The workflow is closed and never changes again."""

    code = "workflow_closed"


class CancelRequested(Conflict):
    """The workflow has a cancel request; it takes no new work, close it."""

    code = "cancel_requested"


class StaleTaskToken(Conflict):
    """The task token is not the current one; the task was completed, expired or taken over. Drop it."""

    code = "stale_task_token"


class NamespaceNotEmpty(Conflict):
    """The namespace still has open workflows or schedules."""

    code = "namespace_not_empty"


class NamespaceProtected(Conflict):
    """The namespace main cannot be deleted."""

    code = "namespace_protected"


class AmbiguousPrefix(Conflict):
    """More than one API key has this prefix; use its id."""

    code = "ambiguous_prefix"


class ScheduleOverlap(Conflict):
    """The schedule's previous run is still open and its overlap policy is skip."""

    code = "schedule_overlap"


class Archived(AssayError):
    """The details of this workflow were moved to the archive."""

    status, code = 410, "archived"


class PayloadTooLarge(AssayError):
    """A value is too large."""

    status, code = 413, "payload_too_large"


class BodyTooLarge(AssayError):
    """The request body is too large."""

    status, code = 413, "body_too_large"


class UnsupportedMediaType(AssayError):
    """The body needs Content-Type: application/json."""

    status, code = 415, "unsupported_media_type"


class ValidationFailed(AssayError):
    """The request is not valid."""

    status, code = 422, "validation_failed"

    @classmethod
    def of(cls, field: str, message: str) -> ValidationFailed:
        """One bad field, named in the sentence and in ``fields``."""
        return cls(f"{field}: {message}", fields={field: [message]})


class NotReady(AssayError):
    """The database is not available; try again."""

    status, code = 503, "not_ready"
    #: whether it is certain that nothing was changed
    undone = False


class DatabaseBusy(NotReady):
    """Others hold locks of the database; try again."""

    undone = True


class LostRace(DatabaseBusy):
    """Another transaction was faster, or would have waited for this one for ever; try again."""


class ShuttingDown(AssayError):
    """The engine is shutting down; try again."""

    status, code = 503, "shutting_down"
