"""assay: a durable workflow engine.

``assay.create_app()`` is the engine as a WSGI application. It is loaded when it is asked for, so
that ``import assay`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.app import create_app as create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    if name == "create_app":
        from assay.app import create_app

        return create_app
    raise AttributeError(f"module 'assay' has no attribute {name!r}")
