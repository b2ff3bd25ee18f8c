"""A chapter about keys and sessions, which leave no trace in any run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.engine import sessions

if TYPE_CHECKING:
    from story import Worker, World


def people_come_and_go(world: World, main: Worker) -> list[str]:
    """A key is made and deleted, somebody signs in and out, and a session that nobody ended is forgotten."""
    wanted = {"label": "ci", "idempotent": True}
    for _ in range(2):
        world.post("api-keys", body=wanted)
    status, keys, _ = world.ask("GET", "api-keys")
    assert (status, [key["label"] for key in keys]) == (200, ["ci"])
    for name in ("left", "forgotten"):
        world.call(sessions.create, id_hash=name, csrf_token="c", principal="p", auth_mode="jwt")
    world.call(sessions.end, id_hash="left")
    for method in ("POST", "DELETE"):
        assert world.ask(method, "session")[0] in (200, 204)
    status, answer, again = world.ask("DELETE", "api-keys", str(keys[0]["id"]))
    assert status == 204 or (again and status == 404), answer
    main.leave()
    world.engine.now += sessions.LIFETIME_SECS + 1
    world.make_pass("clean-up")
    main.register()
    return []
