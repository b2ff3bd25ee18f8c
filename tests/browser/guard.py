"""What no page of the dashboard may ever do, whatever a test is about.

A guard watches a browser context: errors on the console, uncaught errors, violations of the content policy, and
requests to other hosts end the test that caused them.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request

REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`POLICY ${event.violatedDirective} ${event.blockedURI}`));
"""
STATUS = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")


class Guard:
    """``expect_status(409)`` allows answers that the test provokes; ``check()`` fails with everything else."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.origin = urlsplit(origin).netloc
        self.problems: list[str] = []
        self.requests: list[str] = []
        #: requests without an answer yet, streams aside
        self.open_requests: set[Request] = set()
        self._statuses: set[int] = set()
        self._outage = False
        context.add_init_script(REPORT_VIOLATIONS)
        context.on("page", self._watch)
        context.on("request", self._requested)
        context.on("requestfinished", self._answered)
        context.on("requestfailed", self._answered)

    def expect_status(self, *statuses: int) -> None:
        """Answers with these statuses are part of the test."""
        self._statuses.update(statuses)

    def expect_outage(self) -> None:
        """The engine goes away during the test: failing connections are part of it."""
        self._outage = True
        self._statuses.update((502, 503, 504))

    def check(self) -> None:
        """Fail when anything happened that must not."""
        assert self.problems == [], "\n".join(self.problems)

    def _watch(self, page: Page) -> None:
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        status = STATUS.match(message.text)
        if status and int(status.group(1)) in self._statuses:
            return
        if self._outage and ("net::ERR_" in message.text or "EventSource" in message.text):
            return
        self.problems.append(f"console {message.type}: {message.text}")

    def _requested(self, request: Request) -> None:
        self.requests.append(request.url)
        if not request.url.partition("?")[0].endswith("/events/stream"):
            self.open_requests.add(request)
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != self.origin:
            self.problems.append(f"request to another host: {request.url}")

    def _answered(self, request: Request) -> None:
        self.open_requests.discard(request)
