"""What a person at a terminal may want to know next: half a sentence behind an error, a line beside a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.cli.session import Session

#: What people copy into --engine-url although it is not part of it.
_NOT_PART_OF_THE_URL = ("/api/v1/engine/workflow", "/workflow")
_NOBODY = ("no_worker", "no_worker_for_type")


def about_error(error: Exception, session: Session) -> str:
    """Text to put behind the error of a request, or none."""
    from assay.client import BadAnswer, HttpError, Unreachable

    if isinstance(error, Unreachable):
        return _unreachable(error.cause)
    if isinstance(error, HttpError) and error.status == 401:
        return _about_key(session)
    if isinstance(error, BadAnswer):
        return _about_path(session) or "; is this the address of an assay engine?"
    if isinstance(error, HttpError) and error.status == 404 and error.code in (None, "not_found"):
        return _about_path(session) or ("; is this the address of an assay engine?" if error.code is None else "")
    return ""


def _about_key(session: Session) -> str:
    source = session.settings.api_key_source
    missing = session.settings.missing_key_file
    if source is None and missing is not None:
        return f" (no key was sent: the key file {missing} does not exist)"
    if source is None:
        return " (no key was sent; give one with ASSAY_API_KEY, ASSAY_API_KEY_FILE or --api-key)"
    return f" (the key is from {source})"


def _unreachable(cause: str) -> str:
    if "refused" in cause:
        return " (is the engine running? `assay serve` starts one)"
    if "unknown host" in cause:
        return " (check --engine-url)"
    if "not HTTP" in cause:
        return " (if it speaks TLS, the address begins with https://)"
    if "SSL" in cause:
        return " (if it speaks no TLS, the address begins with http://)"
    return ""


def _about_path(session: Session) -> str:
    url = session.settings.engine_url.rstrip("/")
    for ending in _NOT_PART_OF_THE_URL:
        if url.endswith(ending):
            return f" (--engine-url is the part before {ending}: {url.removesuffix(ending)})"
    return ""


def about_json(text: str) -> str:
    """What may be wrong with JSON that stands on the command line."""
    if text[:1] in "{[":
        return (
            "" if '"' in text or text in ("{", "[") else "; put it in single quotes, or the shell takes the double ones"
        )
    if text[:1].isalpha() and '"' not in text:
        return f"; a text needs double quotes of its own: '\"{text}\"'" if len(text) <= 40 else ""
    return ""


def about_start(session: Session, workflow_id: str) -> None:
    """Tell a person that nobody is there to take the run that was just started."""
    pending = _pending(session, workflow_id)
    if pending.get("code") in _NOBODY:
        session.note(f"it waits: {pending.get('verdict')}", on_terminal=True)


def about_wait(session: Session, workflow_id: str) -> None:
    """Tell a person what the run waits for that did not get there in time."""
    verdict = _pending(session, workflow_id).get("verdict")
    if verdict:
        session.note(str(verdict), on_terminal=True)


def _pending(session: Session, workflow_id: str) -> dict[str, object]:
    """What a run waits for; nothing where nobody would read it, or when the engine cannot tell."""
    if not session.is_watched:
        return {}
    from assay.client import BadAnswer, HttpError, Unreachable

    try:
        pending = session.get("workflows", workflow_id, "pending", query=session.run_scope, timeout=2)
    except (Unreachable, HttpError, BadAnswer):
        return {}
    return pending if isinstance(pending, dict) else {}
