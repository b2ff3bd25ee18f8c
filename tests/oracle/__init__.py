"""An oracle for the engine: a small model in plain Python, and a machine that drives both and compares them.

``records`` holds the rows, ``model`` the verbs on runs, ``tasks`` the verbs of workers and the passes of time,
``compare`` reads the tables of an engine, ``driver`` makes one step on both sides, ``moves`` draws arguments, ``looks``
reads what the engine tells its users, ``machine`` makes the moves.
"""
