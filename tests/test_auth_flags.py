"""How authentication is chosen: flags, variables, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from assay.config import Config
from assay.errors import ConfigError

ISSUER = "https://login.example.com/realms/main"

#: flags, variables, mode
MODES: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({}, {}, "open"),
    ({"no_auth": True}, {}, "open"),
    ({"auth_api_key": True}, {}, "api_key"),
    ({"auth_issuer": ISSUER}, {}, "jwt"),
    ({"auth_issuer": ISSUER, "auth_audience": "a"}, {}, "jwt"),
    ({"auth_issuer": ISSUER, "auth_api_key": True}, {}, "combined"),
    ({}, {"ASSAY_AUTH_API_KEY": "1"}, "api_key"),
    ({}, {"ASSAY_AUTH_API_KEY": "TRUE"}, "api_key"),
    ({}, {"ASSAY_AUTH_API_KEY": "0"}, "open"),
    ({}, {"ASSAY_AUTH_API_KEY": "false"}, "open"),
    ({}, {"ASSAY_AUTH_API_KEY": "", "ASSAY_AUTH_ISSUER": "", "ASSAY_AUTH_AUDIENCE": ""}, "open"),
    ({}, {"ASSAY_AUTH_ISSUER": ISSUER}, "jwt"),
    ({}, {"ASSAY_AUTH_ISSUER": ISSUER, "ASSAY_AUTH_AUDIENCE": "a", "ASSAY_AUTH_API_KEY": "1"}, "combined"),
    ({"auth_issuer": ISSUER}, {"ASSAY_AUTH_API_KEY": "1"}, "combined"),
    ({"auth_audience": "a"}, {"ASSAY_AUTH_ISSUER": ISSUER}, "jwt"),
    ({"auth_api_key": True}, {"ASSAY_AUTH_API_KEY": "0"}, "api_key"),
    ({"no_auth": True}, {"ASSAY_AUTH_API_KEY": "1", "ASSAY_AUTH_ISSUER": ISSUER}, "open"),
    ({"no_auth": True}, {"ASSAY_AUTH_AUDIENCE": "a"}, "open"),
]


@pytest.mark.parametrize(("flags", "environ", "mode"), MODES)
def test_flags_and_variables_choose_the_mode(flags: dict[str, Any], environ: dict[str, str], mode: str) -> None:
    assert Config.from_env(environ, **flags).auth_mode == mode


def test_a_flag_wins_over_its_variable() -> None:
    environ = {"ASSAY_AUTH_ISSUER": "https://other.example", "ASSAY_AUTH_AUDIENCE": "other"}
    config = Config.from_env(environ, auth_issuer=ISSUER, auth_audience="mine")
    assert (config.auth_issuer, config.auth_audience) == (ISSUER, "mine")


#: flags and variables that cannot be used, and what the sentence begins with
REFUSED: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"auth_audience": "a"}, {}, "--auth-audience means nothing without an issuer"),
    ({}, {"ASSAY_AUTH_AUDIENCE": "a"}, "ASSAY_AUTH_AUDIENCE means nothing without an issuer"),
    ({"auth_audience": "a", "auth_api_key": True}, {}, "--auth-audience means nothing"),
    ({"no_auth": True, "auth_api_key": True}, {}, "--no-auth and --auth-api-key contradict"),
    ({"no_auth": True, "auth_issuer": ISSUER}, {}, "--no-auth and --auth-issuer contradict"),
    ({"no_auth": True, "auth_audience": "a"}, {}, "--no-auth and --auth-audience contradict"),
    ({}, {"ASSAY_AUTH_API_KEY": "yes"}, "ASSAY_AUTH_API_KEY: expected 1 or true"),
    ({"auth_issuer": ""}, {}, "--auth-issuer: expected the URL"),
    ({"auth_issuer": ISSUER, "auth_audience": " "}, {}, "--auth-audience: expected the audience"),
    *(
        ({}, {"ASSAY_AUTH_ISSUER": url}, "ASSAY_AUTH_ISSUER: expected the URL")
        for url in (
            "login.example.com",
            "ftp://x",
            "https://",
            "https:///path",
            "https://x y",
            "https://x?y=1",
            "https://x#y",
            "https://x:port",
            "https://[::1",
            "https://user:secret@x",
            "https://caf\u00e9.example",
        )
    ),
]


@pytest.mark.parametrize(("flags", "environ", "words"), REFUSED)
def test_what_contradicts_itself_is_refused(flags: dict[str, Any], environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Config.from_env(environ, **flags)
    assert refusal.value.message.startswith(words) and "secret" not in refusal.value.message


def test_a_key_in_the_wrong_variable_is_not_shown() -> None:
    with pytest.raises(ConfigError) as refusal:
        Config.from_env({"ASSAY_AUTH_API_KEY": "assay_" + "5" * 64})
    assert "555" not in refusal.value.message
