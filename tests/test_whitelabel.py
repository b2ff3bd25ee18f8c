"""The eleven variables that rebrand the dashboard: unset, empty, set, and unusable."""

from __future__ import annotations

import json
import re

import pytest
from flask.testing import FlaskClient

from assay.app import create_app
from assay.config import Config
from assay.engine import Engine
from assay.whitelabel import Whitelabel, is_usable_url, origin

URLS = ("LOGO_URL", "PARENT_URL", "API_DOCS_URL", "CSS_URL", "FAVICON_URL")
KEYS = ("NAME", "SUBTITLE", "MARK", "PAGE_TITLE", "PARENT_NAME", "DEFAULT_NAMESPACE", *URLS)
HOSTILE = '"></script><script>alert(1)</script>{{7*7}}<b>\u2028&'


def brand(**variables: str) -> Whitelabel:
    return Config.from_env({f"ASSAY_WHITELABEL_{key}": value for key, value in variables.items()}).whitelabel


def page(tmp_path: object, **variables: str) -> tuple[str, dict[str, str]]:
    """The page of an engine with these variables, and its headers."""
    engine = Engine(Config(backend=f"sqlite://{tmp_path}/w.db", whitelabel=brand(**variables)))
    try:
        client: FlaskClient = create_app(engine=engine).test_client()
        answer = client.get("/workflow/")
        return answer.text, dict(answer.headers)
    finally:
        engine.close()


def test_without_variables_the_dashboard_is_assay() -> None:
    assert brand() == Whitelabel()
    assert (Whitelabel().name, Whitelabel().mark, Whitelabel().parent_name) == ("Assay", "A", "Back")


def test_an_empty_variable_is_as_unset_but_for_the_link_to_the_docs() -> None:
    assert brand(**dict.fromkeys(KEYS, "")) == Whitelabel(api_docs_url="")


def test_every_variable_is_taken_as_written() -> None:
    values = {
        "NAME": "Ärzte & Co",
        "SUBTITLE": "Operations",
        "MARK": "µ",
        "LOGO_URL": "https://cdn.example/logo.svg?x=1",
        "PAGE_TITLE": "Jobs",
        "PARENT_URL": "/",
        "PARENT_NAME": "Console",
        "API_DOCS_URL": "/docs",
        "CSS_URL": "/theme.css",
        "FAVICON_URL": "http://cdn.example:8080/i.png",
        "DEFAULT_NAMESPACE": "ops",
    }
    found = brand(**values)
    assert {key: getattr(found, key.lower()) for key in values} == values
    assert found.warnings == ()


def test_the_mark_is_the_first_letter_of_the_name() -> None:
    assert brand(NAME="éclair").mark == "É"


@pytest.mark.parametrize("key", URLS)
@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "//evil.example/x",
        "/\\evil.example",
        "data:text/html,x",
        "x.css",
        "https://",
        "http://a b/",
    ],
)
def test_an_address_that_is_no_web_address_is_ignored_with_a_warning(key: str, url: str) -> None:
    found = brand(**{key: url})
    assert getattr(found, key.lower()) == getattr(Whitelabel(), key.lower())
    assert len(found.warnings) == 1 and f"ASSAY_WHITELABEL_{key}" in found.warnings[0]


def test_a_namespace_that_cannot_exist_is_ignored_with_a_warning() -> None:
    found = brand(DEFAULT_NAMESPACE="a/b")
    assert found.default_namespace == "main" and "DEFAULT_NAMESPACE" in found.warnings[0]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("/t.css", "/t.css?v=1"),
        ("/t.css?a=b", "/t.css?a=b&v=1"),
        ("/t.css?", "/t.css?v=1"),
        ("https://x.example/t.css#part", "https://x.example/t.css?v=1#part"),
    ],
)
def test_the_style_sheet_of_the_operator_gets_the_version(url: str, address: str) -> None:
    assert brand(CSS_URL=url).css_address("1") == address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://x.example/a", "https://x.example"),
        ("http://u:p@x.example:81/", "http://x.example:81"),
        ("https://[::1]:8/", "https://[::1]:8"),
        ("https://x.example;script-src *", ""),
        ("https://x.example:99999/", ""),
        ("/a", ""),
    ],
)
def test_the_origin_of_an_address_is_safe_in_a_header(url: str, expected: str) -> None:
    assert origin(url) == expected
    assert is_usable_url(url) is (expected != "" or url == "/a")


def test_texts_with_markup_stay_texts_everywhere_on_the_page(tmp_path: object) -> None:
    texts = ("NAME", "SUBTITLE", "MARK", "PAGE_TITLE", "PARENT_NAME")
    text, _ = page(tmp_path, **dict.fromkeys(texts, HOSTILE))
    assert "<script>alert" not in text and "49" not in re.sub(r"[0-9a-f]{12}", "", text)
    assert text.count("</script>") == 3
    block = re.search(r'id="config">(.*?)</script>', text)
    assert block and not set("<>&\u2028") & set(block.group(1))
    settings = json.loads(block.group(1))
    assert [settings[key] for key in ("name", "subtitle", "mark", "pageTitle", "parentName")] == [HOSTILE] * 5


def test_the_operators_sheet_is_the_last_one_and_its_host_is_allowed(tmp_path: object) -> None:
    text, headers = page(tmp_path, CSS_URL="https://cdn.example/t.css", LOGO_URL="https://img.example/l.svg")
    sheets = re.findall(r'<link rel="stylesheet" href="([^"]+)">', text.partition("</head>")[0])
    assert len(sheets) == 2 and sheets[1].startswith("https://cdn.example/t.css?v=")
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["style-src"] == "'self' https://cdn.example"
    assert policy["img-src"] == "'self' data: https://img.example https://cdn.example"
    assert policy["font-src"] == "'self' https://cdn.example"
    assert (policy["script-src"], policy["connect-src"], policy["default-src"]) == ("'self'", "'self'", "'none'")


def test_an_icon_of_the_operator_replaces_ours(tmp_path: object) -> None:
    text, _ = page(tmp_path, FAVICON_URL="/icons/x.png")
    assert '<link rel="icon" href="/icons/x.png">' in text
