"""Numbered migration files, run in order by ``playhouse.migrations``."""
