"""Who the caller is, where access is open."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

B = "/api/v1/engine/workflow"


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer anything"}], ids=["anonymous", "ignored token"])
def test_with_open_access_nobody_is_checked(api: FlaskClient, headers: dict[str, str]) -> None:
    answer = api.get(f"{B}/session", headers=headers)
    assert answer.status_code == 200
    assert answer.get_json() == {"principal": None, "auth_mode": "open", "csrf_token": None, "expires_at": None}
