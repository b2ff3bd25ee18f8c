"""One bucket of S3, or of anything that speaks its protocol: write an object, read one back.

The AWS SDK belongs to the extra ``s3-archival`` and is loaded only here. Credentials and region come from the SDK's
default chain, ``AWS_ENDPOINT_URL`` names another service. Under gevent every call lets other greenlets run; an object
larger than a part is sent in parts, so that memory stays bounded whatever its size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any

EXTRA = "s3-archival"
INSTALL_HINT = f"install the extra: pip install 'assay[{EXTRA}]'"
#: size of a part of a large object; S3 takes at most 10000 of them
PART_BYTES = 8 * 1024 * 1024
READ_BYTES = 1024 * 1024
#: S3's limit of a key in UTF-8
KEY_BYTES = 1024

#: what is wrong with one object and not with the store
OBJECT_CODES = frozenset({"KeyTooLongError", "EntityTooLarge", "NoSuchKey", "404", "InvalidObjectState"})


class StoreError(Exception):
    """The store did not do what it was asked; the text says why.

    ``everything`` tells whether other objects would fare no better.
    """

    def __init__(self, text: str, *, everything: bool = True) -> None:
        super().__init__(text)
        self.everything = everything


@dataclass(frozen=True)
class Digest:
    """What identifies content: its size in bytes and its SHA-256 in hex."""

    size: int
    sha256: str


def is_installed() -> bool:
    """Whether the AWS SDK is there and can be loaded; only half of it is as good as none."""
    try:
        for name in ("boto3", "botocore.config", "botocore.exceptions"):
            import_module(name)
    except ImportError:
        return False
    return True


def uri(bucket: str, key: str) -> str:
    """``s3://bucket/key``."""
    return f"s3://{bucket}/{key}"


def parse_uri(text: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``. Raises ValueError for another text."""
    scheme, separator, rest = text.partition("://")
    bucket, slash, key = rest.partition("/")
    if scheme != "s3" or not separator or not bucket or not slash or not key:
        raise ValueError(f"not an address of the form s3://bucket/key: {text!r}")
    return bucket, key


class Bucket:
    """One bucket. Making it loads the SDK, which takes about half a second, and sends nothing.

    Every method raises StoreError.
    """

    def __init__(self, name: str) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self.name = name
        config = Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 3},
            # Many services beside AWS do not know the checksums that the SDK adds by itself; content is read back and
            # compared instead.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent_extra="assay",
        )
        try:
            session = boto3.session.Session()
            # Services beside AWS have no region, but the SDK wants one to sign with.
            self._client = session.client("s3", region_name=session.region_name or "us-east-1", config=config)
        except (BotoCoreError, ValueError) as error:
            raise StoreError(f"the AWS SDK does not start: {_sentence(error)}") from error

    def put(self, key: str, content: IO[bytes], size: int) -> None:
        """Store ``size`` bytes of ``content`` under ``key``, in place of what is there."""
        with self._translated(f"writing {uri(self.name, key)}"):
            if size <= PART_BYTES:
                self._client.put_object(
                    Bucket=self.name, Key=key, Body=content.read(size), ContentType="application/json"
                )
            else:
                self._put_parts(key, content)

    def _put_parts(self, key: str, content: IO[bytes]) -> None:
        where = {"Bucket": self.name, "Key": key}
        started = self._client.create_multipart_upload(**where, ContentType="application/json")
        upload = {**where, "UploadId": started["UploadId"]}
        try:
            parts: list[dict[str, Any]] = []
            while part := content.read(PART_BYTES):
                answer = self._client.upload_part(**upload, PartNumber=len(parts) + 1, Body=part)
                parts.append({"PartNumber": len(parts) + 1, "ETag": answer["ETag"]})
            self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except BaseException:
            # The parts of an upload that is never completed would be kept, and paid for.
            with suppress(Exception):
                self._client.abort_multipart_upload(**upload)
            raise

    def chunks(self, key: str) -> Iterator[bytes]:
        """The content under ``key``, in portions."""
        with self._translated(f"reading {uri(self.name, key)}"):
            answer = self._client.get_object(Bucket=self.name, Key=key)
            with closing(answer["Body"]) as body:
                yield from body.iter_chunks(READ_BYTES)

    def digest(self, key: str) -> Digest:
        """What is stored under ``key``, found out by reading it."""
        size, sha256 = 0, hashlib.sha256()
        for chunk in self.chunks(key):
            size += len(chunk)
            sha256.update(chunk)
        return Digest(size, sha256.hexdigest())

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ClientError as error:
            answer = error.response.get("Error", {})
            code = str(answer.get("Code", "unknown"))
            text = str(answer.get("Message") or error)
            raise StoreError(f"{what}: {code}: {text}", everything=code not in OBJECT_CODES) from error
        except (BotoCoreError, HTTPError, OSError) as error:
            raise StoreError(f"{what}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
