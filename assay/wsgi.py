"""The WSGI application ``assay.wsgi:app``, configured by the environment.

``gunicorn wsgi:app`` in a checkout; ``gunicorn -c python:assay.gunicorn_conf assay.wsgi:app`` from an
installed package.
"""

from gevent import monkey

# Before anything that could import a socket, a lock or a database driver.
monkey.patch_all()

from assay.app import create_app  # noqa: E402
from assay.config import Config  # noqa: E402

app = create_app(Config.from_env())
