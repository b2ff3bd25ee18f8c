"""The page under /workflow/, its static files and the addresses that lead to it."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from flask.testing import FlaskClient

from assay.app import create_app
from assay.dashboard import asset_folder
from assay.engine import Engine


def asset_of(page: str) -> str:
    """The address of the style sheet that a page links to."""
    match = re.search(r'<link rel="stylesheet" href="([^"]+)">', page)
    assert match
    return match.group(1)


@pytest.mark.parametrize("path", ["/", "/workflow"])
def test_short_addresses_lead_to_the_page(api: FlaskClient, path: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.headers["Location"]) == (308, "/workflow/")


@pytest.mark.parametrize("query", ["ns=prod&q=a%2Fb", "x", "q=%C3%BC+%zz%0d%0aA:b&&'", "next=//evil.example"])
@pytest.mark.parametrize("path", ["/", "/workflow"])
def test_what_they_ask_for_comes_along(api: FlaskClient, path: str, query: str) -> None:
    answer = api.get(f"{path}?{query}", headers={"X-Forwarded-Prefix": "/tools"})
    assert (answer.status_code, answer.headers["Location"]) == (308, f"/tools/workflow/?{query}")


def settings_of(page: str) -> dict[str, Any]:
    """The block of settings that a page carries."""
    match = re.search(r'<script type="application/json" id="config">(.*?)</script>', page)
    assert match
    return dict(json.loads(match.group(1)))


def test_the_page_carries_brand_and_settings(api: FlaskClient) -> None:
    answer = api.get("/workflow/")
    assert answer.status_code == 200
    assert "<title>Assay Workflow Dashboard</title>" in answer.text
    settings = settings_of(answer.text)
    assert settings["docsUrl"] == "/api/v1/engine/workflow/docs"
    assert (settings["prefix"], settings["authMode"], settings["defaultNamespace"]) == ("", "open", "main")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_deep_address_serves_the_page_too(api: FlaskClient) -> None:
    assert api.get("/workflow/ns/main/workflows/a%2Fb?tab=steps").status_code == 200


def test_static_files_of_this_start_may_be_kept_for_ever(api: FlaskClient) -> None:
    address = asset_of(api.get("/workflow/").text)
    answer = api.get(address)
    assert answer.status_code == 200 and answer.mimetype == "text/css"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_static_files_of_another_start_are_the_same_but_checked_again(api: FlaskClient) -> None:
    answer = api.get("/workflow/static/0123/assay.css")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-cache"


def test_the_style_sheet_is_every_part_in_one_answer(api: FlaskClient) -> None:
    sheet = api.get(asset_of(api.get("/workflow/").text)).text
    parts = sorted(asset_folder("static").glob("css/*.css"))
    assert len(parts) > 4
    assert all(part.read_text() in sheet for part in parts)
    assert sheet.index(":root") < sheet.index(".shell") < sheet.index(".dialog")


def test_texts_travel_compressed_to_browsers_that_take_it(api: FlaskClient) -> None:
    plain = api.get("/workflow/static/x/js/app.js")
    packed = api.get("/workflow/static/x/js/app.js", headers={"Accept-Encoding": "gzip, br"})
    assert "Content-Encoding" not in plain.headers and plain.mimetype == "text/javascript"
    assert packed.headers["Content-Encoding"] == "gzip" and packed.headers["Vary"] == "Accept-Encoding"
    assert gzip.decompress(packed.data) == plain.data and len(packed.data) < len(plain.data) / 2
    assert plain.headers["ETag"] != packed.headers["ETag"]


def test_an_unchanged_file_is_not_sent_again(api: FlaskClient) -> None:
    first = api.get("/workflow/static/x/js/app.js")
    again = api.get("/workflow/static/x/js/app.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_every_vendored_file_is_the_published_one() -> None:
    vendor = asset_folder("static") / "vendor"
    listed = json.loads((vendor / "MANIFEST.json").read_text())
    for entry in listed:
        assert hashlib.sha256((vendor / entry["file"]).read_bytes()).hexdigest() == entry["sha256"], entry["file"]
    present = {path.relative_to(vendor).as_posix() for path in vendor.rglob("*") if path.is_file()}
    assert present == {entry["file"] for entry in listed} | {"MANIFEST.json"}


def test_no_file_of_the_dashboard_builds_html_or_ignores_the_layer() -> None:
    folder = asset_folder("static")
    for path in (*folder.glob("js/**/*.js"), folder / "theme.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()), path
    for path in folder.glob("css/*.css"):
        assert "!important" not in path.read_text(), path
        assert re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL).strip().startswith("@layer assay {"), path


#: a colour written out, in a declaration or a script
COLOUR = re.compile(
    r"#(?:[0-9a-f]{3,4}){1,2}\b(?=[^{]*[;}])|\b(?:rgba?|hsla?|hwb|lab|lch|oklab|oklch|color)\("
    r"|:[^;{}]*(?<![\w-])(?:white|black|red|green|blue|gr[ae]y|orange|yellow|silver|purple)(?![\w-])",
    re.IGNORECASE,
)
TOKEN = re.compile(r"^ +--(?!assay-)[\w-]+: [^;]+;\n", re.MULTILINE)


def test_every_colour_is_one_of_the_fourteen_tokens_or_made_from_them() -> None:
    folder = asset_folder("static")
    tokens = (folder / "css" / "tokens.css").read_text()
    declared = [line.split(":")[0].strip() for line in TOKEN.findall(tokens.partition("}")[0])]
    assert len(declared) == len(set(declared)) == 14
    for path in folder.glob("css/*.css"):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        found = COLOUR.search(TOKEN.sub("", text) if path.name == "tokens.css" else text)
        assert found is None, (path.name, found.group())
    for path in folder.glob("js/**/*.js"):
        assert not re.search(r"\b(?:rgba?|hsla?|oklch)\(|[\"'`:] ?#[0-9a-f]{6}\b", path.read_text()), path.name


def test_modules_are_loaded_by_relative_addresses_that_exist() -> None:
    folder = asset_folder("static")
    for path in folder.glob("js/**/*.js"):
        for address in re.findall(r"""(?:\} from|import\()\s*["']([^"']+)["']""", path.read_text()):
            assert address.startswith((".", "..")), (path, address)
            assert (path.parent / address).is_file(), (path, address)


@pytest.mark.parametrize("path", ["", "x", "x/", "x/missing.js", "x/../shell.html", "x/%2e%2e/pyproject.toml"])
def test_a_missing_static_file_is_not_the_page(api: FlaskClient, path: str) -> None:
    answer = api.get(f"/workflow/static/{path}")
    assert answer.status_code == 404
    assert "immutable" not in answer.headers.get("Cache-Control", "")


def test_the_icon_has_its_usual_address(api: FlaskClient) -> None:
    assert api.get("/favicon.ico").mimetype == "image/svg+xml"


def test_behind_a_gateway_every_address_has_its_prefix(api: FlaskClient) -> None:
    headers = {"X-Forwarded-Prefix": "/tools/assay"}
    assert api.get("/", headers=headers).headers["Location"] == "/tools/assay/workflow/"
    page = api.get("/workflow/", headers=headers).text
    assert asset_of(page).startswith("/tools/assay/workflow/static/")
    assert settings_of(page)["prefix"] == "/tools/assay"
    assert settings_of(page)["docsUrl"] == "/tools/assay/api/v1/engine/workflow/docs"


@pytest.mark.parametrize(
    "prefix",
    [
        "//evil.example",
        "https://evil.example",
        "/a b",
        '/"><script>',
        "/a//b",
        "x",
        "/",
        "//",
        "/tools//",
        "/tools/../assay",
    ]
    + [
        "/..",
        "/../",
        "/./assay",
        "/tools/.",
        "/tools/%2e%2e/assay",
        "/tools\\assay",
        "\\evil.example",
        "/\\evil.example",
    ]
    + [
        "/tools\tassay",
        "/tools\x00",
        "/tools\x7f",
        "/tööls",
        "/tools?x",
        "/tools#x",
        "/tools;x",
        "/a, /b",
        "/%0d%0aX:y",
    ],
)
def test_a_prefix_that_is_no_plain_path_is_ignored(api: FlaskClient, prefix: str) -> None:
    headers = {"X-Forwarded-Prefix": prefix}
    assert api.get("/", headers=headers).headers["Location"] == "/workflow/"
    page = api.get("/workflow/", headers=headers).text
    assert settings_of(page)["prefix"] == "" and asset_of(page).startswith("/workflow/static/")


@pytest.mark.parametrize("prefix", ["/tools", "/tools/", "/tools/assay", "/a.b/~c_d-e/...", "/.well-known/..x"])
def test_a_plain_path_is_a_prefix(api: FlaskClient, prefix: str) -> None:
    page = api.get("/workflow/", headers={"X-Forwarded-Prefix": prefix}).text
    assert settings_of(page)["prefix"] == prefix.removesuffix("/")


@pytest.mark.parametrize("path", ["/workflow/", "/favicon.ico", "/nowhere", "/api/v1/engine/workflow/health"])
def test_every_answer_carries_the_security_headers(api: FlaskClient, path: str) -> None:
    headers = api.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Frame-Options"] == "SAMEORIGIN"


def test_a_stopping_engine_refuses_every_request(api: FlaskClient, engine: Engine) -> None:
    engine.stop()
    for path in ("/workflow/", "/api/v1/engine/workflow/health", "/api/v1/engine/workflow/workflows"):
        answer = api.get(path)
        assert (answer.status_code, answer.json["code"]) == (503, "shutting_down")
        assert answer.headers["Retry-After"] == "1"


def test_applications_of_one_start_agree_on_the_address_of_static_files(api: FlaskClient, engine: Engine) -> None:
    other = create_app(engine=engine).test_client()
    assert asset_of(api.get("/workflow/").text) == asset_of(other.get("/workflow/").text)


def test_every_start_gives_static_files_another_address() -> None:
    script = "from assay.dashboard import asset_version; print(asset_version())"
    found = {subprocess.check_output([sys.executable, "-c", script], text=True) for _ in range(2)}
    assert len(found) == 2
