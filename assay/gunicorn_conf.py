"""gunicorn's settings as a configuration module, made from the environment.

Used by gunicorn.conf.py of a checkout and as ``gunicorn -c python:assay.gunicorn_conf``.
"""

from assay.config import Config
from assay.errors import ConfigError
from assay.server import Server, report

try:
    _config = Config.from_env()
except ConfigError as error:
    report(error)
    raise SystemExit(64) from None

globals().update(Server(_config).settings())
