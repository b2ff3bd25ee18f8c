"""What plain ``gunicorn wsgi:app`` in a checkout reads: worker class, time-outs and hooks."""

from assay.gunicorn_conf import *  # noqa: F403
