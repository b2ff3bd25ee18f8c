"""Measurements of assay as its users run it: a real engine process on a SQLite file, a real Lua worker, a client.

``python -m benchmarks`` runs the workloads of ``workloads.py``, each on an engine, a database and a worker of its
own, checks every result and every history, and prints one JSON line per workload. Nothing is tuned for the
measurement: the engine runs with its durable defaults, so every accepted request is on disk before it is answered.
"""
