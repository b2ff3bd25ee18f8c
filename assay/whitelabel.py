"""How an operator rebrands the dashboard: the ``ASSAY_WHITELABEL_*`` variables as one frozen object.

``Config`` reads it once at start. A value that cannot be used never stops the engine: it counts as unset and
leaves a sentence in ``warnings``, which the dashboard logs. Nothing is escaped here; whoever writes a value
into a page escapes it for its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_NAMESPACE = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,63}")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_UNUSABLE = re.compile(r"[\x00-\x20\x7f-\x9f\\]")


@dataclass(frozen=True)
class Whitelabel:
    """The identity that the dashboard shows. Texts and URLs are as the operator wrote them; empty means absent."""

    name: str = "Assay"
    subtitle: str = ""
    mark: str = "A"
    logo_url: str = ""
    page_title: str = "Assay Workflow Dashboard"
    parent_url: str = ""
    parent_name: str = "Back"
    #: None: the engine's own documentation; empty: no link at all
    api_docs_url: str | None = None
    css_url: str = ""
    favicon_url: str = ""
    default_namespace: str = "main"
    #: sentences about values that were ignored
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Whitelabel:
        """Read the variables out of ``environ``; unusable values are ignored with a warning."""
        warnings: list[str] = []

        def text(variable: str, default: str) -> str:
            return environ.get(variable, "").strip() or default

        def url(variable: str) -> str:
            value = environ.get(variable, "").strip()
            if value and not is_usable_url(value):
                warnings.append(
                    f"{variable} is ignored: expected http://..., https://... or a path that starts with one slash"
                )
                return ""
            return value

        name = text("ASSAY_WHITELABEL_NAME", cls.name)
        namespace = text("ASSAY_WHITELABEL_DEFAULT_NAMESPACE", cls.default_namespace)
        if not _NAMESPACE.fullmatch(namespace):
            warnings.append("ASSAY_WHITELABEL_DEFAULT_NAMESPACE is ignored: it is not a namespace name")
            namespace = cls.default_namespace
        hidden = environ.get("ASSAY_WHITELABEL_API_DOCS_URL") == ""
        return cls(
            name=name,
            subtitle=text("ASSAY_WHITELABEL_SUBTITLE", ""),
            mark=text("ASSAY_WHITELABEL_MARK", name[0].upper()),
            logo_url=url("ASSAY_WHITELABEL_LOGO_URL"),
            page_title=text("ASSAY_WHITELABEL_PAGE_TITLE", cls.page_title),
            parent_url=url("ASSAY_WHITELABEL_PARENT_URL"),
            parent_name=text("ASSAY_WHITELABEL_PARENT_NAME", cls.parent_name),
            api_docs_url="" if hidden else url("ASSAY_WHITELABEL_API_DOCS_URL") or None,
            css_url=url("ASSAY_WHITELABEL_CSS_URL"),
            favicon_url=url("ASSAY_WHITELABEL_FAVICON_URL"),
            default_namespace=namespace,
            warnings=tuple(warnings),
        )

    def css_address(self, version: str) -> str:
        """The operator's style sheet with ``v=<version>`` added to its query, before a fragment; may be empty."""
        if not self.css_url:
            return ""
        address, hash_sign, fragment = self.css_url.partition("#")
        joint = "" if address.endswith(("?", "&")) else "&" if "?" in address else "?"
        return f"{address}{joint}v={version}{hash_sign}{fragment}"


def is_usable_url(url: str) -> bool:
    """Whether ``url`` is ``http(s)://host...`` or an absolute path that no browser reads as another host."""
    if _UNUSABLE.search(url):
        return False
    if url.startswith("/"):
        return not url.startswith("//")
    return origin(url) != ""


def origin(url: str) -> str:
    """``https://host:port`` of an absolute URL; empty for a path and for anything that is no web address."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    host = host.removesuffix(f":{port}") if port is not None else host.removesuffix(":")
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host):
        return ""
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")
