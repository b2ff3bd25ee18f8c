"""``gunicorn wsgi:app`` in a checkout; gunicorn.conf.py has the settings."""

from assay.wsgi import app

__all__ = ["app"]
