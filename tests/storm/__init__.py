"""A storm: clients start runs and send signals while engine and workers are killed, and all must come out right.

``plans`` says what runs do, ``workload.lua`` does it, ``effects`` is the world outside. ``line`` is a client's way to
an engine that comes and goes, ``client`` keeps runs going over it, ``signals`` and ``judge`` know what must come of
them, ``processes`` kills, and ``aftermath`` looks at what is left.
"""
