"""A background pass over many things, each of which fails alone.

A row that cannot be handled (damaged by hand, say) is logged and tried again at the next pass; it holds up nothing
else. A database that cannot be used ends the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from assay import logs
from assay.errors import NotReady

log = logs.get("assay.engine")

T = TypeVar("T")


def each(what: str, items: Iterable[T], handle: Callable[[T], int]) -> int:
    """The sum of ``handle(item)`` over the items; ``what`` names them in the log. Raises NotReady."""
    count = 0
    for item in items:
        try:
            count += handle(item)
        except NotReady:
            raise
        except Exception:
            log.exception("background work failed for one item; the others go on", what=what, item=item)
    return count
