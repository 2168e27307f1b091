"""Files in an S3 bucket.

Credentials come from the standard AWS chain (environment, shared files, instance roles), the
endpoint from the standard variables (``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``) and profiles.
Without credentials requests are sent unsigned, as public buckets allow.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import boto3
import botocore.exceptions
import urllib3.exceptions
from botocore import UNSIGNED
from botocore.config import Config

from prs_med.storage.retry import PATIENCE, TransientError, patiently
from prs_med.storage.store import MissingFileError, StorageError, check_name

T = TypeVar("T")

_CONNECT_SECONDS = 10
_SILENCE_SECONDS = 30
_SLOWEST_BYTES_PER_SECOND = 128 * 1024
"""A body that arrives more slowly is asked for again: another connection is often faster."""
_CHUNK = 1 << 18
_CONNECTIONS = 32
_ONE_PUT = 5 << 30
"""S3 takes larger files in several parts only."""
_PASSING_CODES = {
    *("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException"),
    "ConditionalRequestConflict",
    # The body did not arrive as it was sent.
    *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"),
}
_BROKEN_CONNECTION = (
    # No server listens, or its name is not known: so it is for a while when it starts again.
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.FlexibleChecksumError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
)


class _DamagedError(TransientError):
    """An object is there, and is not what was sent."""


class S3Store:
    """A prefix of a bucket. Failures that may pass are repeated for ``patience`` seconds."""

    def __init__(self, uri: str, patience: float = PATIENCE) -> None:
        """``uri`` is ``s3://bucket`` or ``s3://bucket/prefix``."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise StorageError(f"{uri}: names no bucket; write s3://bucket/folder")
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.uri = f"s3://{bucket}/{self._prefix}".rstrip("/")
        self._patience = patience
        self._lock = threading.Lock()
        self._made: Any = None

    def where(self, name: str) -> str:
        """The URI of a file."""
        return f"{self.uri}/{name}"

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See :class:`prs_med.storage.store.Store`."""
        if length == 0:
            return b""
        wanted = {}
        if offset or length is not None:
            last = "" if length is None else offset + length - 1
            wanted = {"Range": f"bytes={offset}-{last}"}

        def get() -> bytes:
            answer = self._client().get_object(**self._object(name), **wanted)
            data = _body(answer["Body"], answer["ContentLength"])
            if length is not None and len(data) != length:
                raise StorageError(
                    f"{self.where(name)}: ends at byte {offset + len(data)}, "
                    f"but {offset + length} were expected"
                )
            return data

        return self._ask(name, get)

    def open(self, name: str) -> None:
        """See :class:`prs_med.storage.store.Store`: here each read is a request."""

    def size(self, name: str) -> int | None:
        """See :class:`prs_med.storage.store.Store`."""
        try:
            return int(
                self._ask(name, lambda: self._client().head_object(**self._object(name)))[
                    "ContentLength"
                ]
            )
        except MissingFileError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """See :class:`prs_med.storage.store.Store`."""
        self._ask(name, lambda: self._put(name, data, _md5(data).hexdigest()))

    def create(self, name: str, data: bytes) -> bool:
        """See :class:`prs_med.storage.store.Store`; one PUT with ``If-None-Match: *``."""
        ours = False

        def put() -> bool:
            nonlocal ours
            condition = {} if ours else {"IfNoneMatch": "*"}
            try:
                self._put(name, data, _md5(data).hexdigest(), **condition)
            except botocore.exceptions.ClientError as error:
                if _status(error) == 412:
                    return False
                raise
            except _DamagedError:
                ours = True  # Nobody else can have it any more, and it is written again.
                raise
            return True

        # An earlier attempt may have arrived although its answer did not.
        return self._ask(name, put) or self.read(name) == data

    def write_file(self, name: str, source: Path) -> None:
        """See :class:`prs_med.storage.store.Store`; large files go in several parts."""

        def put() -> None:
            if source.stat().st_size > _ONE_PUT:
                self._client().upload_file(str(source), self._bucket, self._key(name))
                return
            with source.open("rb") as file:
                digest = hashlib.file_digest(file, _md5).hexdigest()
                file.seek(0)
                self._put(name, file, digest)

        self._ask(name, put)

    def names(self, prefix: str = "") -> list[str]:
        """See :class:`prs_med.storage.store.Store`."""

        return sorted(self.changed(prefix))

    def changed(self, prefix: str) -> dict[str, float]:
        """When each file whose name starts with ``prefix`` was written, in seconds of Unix time."""

        def collect() -> dict[str, float]:
            pages = self._client().get_paginator("list_objects_v2")
            return {
                entry["Key"].removeprefix(self._prefix): entry["LastModified"].timestamp()
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)
                for entry in page.get("Contents", ())
            }

        return self._ask(prefix, collect)

    def delete(self, name: str) -> None:
        """See :class:`prs_med.storage.store.Store`."""
        self._ask(name, lambda: self._client().delete_object(**self._object(name)))

    def server_time(self) -> float | None:
        """The server's clock in seconds of Unix time, to a second; None if it does not tell."""

        def ask() -> float | None:
            answer = self._client().list_objects_v2(
                Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1
            )
            date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
            return parsedate_to_datetime(date).timestamp() if date else None

        return self._ask("", ask)

    def sweep(self) -> None:
        """See :class:`prs_med.storage.store.Store`: parts of uploads that were never completed."""

        def abort_all() -> None:
            pages = self._client().get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", ()):
                    self._client().abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )

        self._ask("", abort_all)

    def _put(self, name: str, body: bytes | BinaryIO, md5: str, **condition: str) -> None:
        """Write an object, and compare what arrived with what was sent: not every server looks at
        the checksums that come with a request."""
        answer = self._client().put_object(**self._object(name), Body=body, **condition)
        tag = answer["ETag"].strip('"')
        # Only without a key of the user's own is the tag an MD5.
        if answer.get("ServerSideEncryption", "AES256") == "AES256" and tag != md5:
            raise _DamagedError(f"other bytes arrived than were sent (MD5 {tag})")

    def _key(self, name: str) -> str:
        return self._prefix + check_name(name)

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key(name)}

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = _new_client()
            return self._made

    def _ask(self, name: str, action: Callable[[], T]) -> T:
        """The result of a request; what may pass is repeated, anything else is an error."""

        def attempt() -> T:
            try:
                return action()
            except botocore.exceptions.ClientError as error:
                raise self._verdict(name, error) from error
            except boto3.exceptions.S3UploadFailedError as error:
                cause = error.__context__
                if isinstance(cause, botocore.exceptions.ClientError):
                    raise self._verdict(name, cause) from error
                raise TransientError(_brief(error)) from error
            except _BROKEN_CONNECTION as error:
                raise TransientError(_brief(error)) from error
            except botocore.exceptions.BotoCoreError as error:
                raise StorageError(f"{self.where(name)}: {_brief(error)}") from error

        try:
            return patiently(self.where(name), attempt, self._patience)
        except TransientError as error:
            raise StorageError(
                f"{self.where(name)}: {error}, for {self._patience:.0f} seconds"
            ) from error

    def _verdict(self, name: str, error: botocore.exceptions.ClientError) -> Exception:
        """What an answer of the server means."""
        status = _status(error)
        code = error.response.get("Error", {}).get("Code", "")
        if status >= 500 or status == 429 or code in _PASSING_CODES:
            return TransientError(f"the server answers {status} {code}".strip())
        if code == "NoSuchBucket":
            return StorageError(f"s3://{self._bucket}: there is no such bucket")
        if status == 404:
            return MissingFileError(f"{self.where(name)}: no such object")
        if status == 416:
            return StorageError(f"{self.where(name)}: is shorter than expected")
        if status in (401, 403):
            return StorageError(
                f"{self.where(name)}: the server answers {status} {code}; check the credentials "
                "(AWS_PROFILE, AWS_ACCESS_KEY_ID, ... or the instance's role) and their rights"
            )
        return StorageError(f"{self.where(name)}: the server answers {status} {code}")


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _new_client() -> Any:
    session = boto3.Session()
    # Retries are ours: botocore's do not cover bodies that break off, and name no object.
    options: dict[str, Any] = {
        "retries": {"total_max_attempts": 1},
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _SILENCE_SECONDS,
        "max_pool_connections": _CONNECTIONS,
    }
    if session.get_credentials() is None:
        options["signature_version"] = UNSIGNED
    return session.client(
        "s3", region_name=session.region_name or "us-east-1", config=Config(**options)
    )


def _body(stream: Any, length: int) -> bytes:
    """The body of an answer, of which ``length`` bytes were announced."""
    deadline = time.monotonic() + _SILENCE_SECONDS + length / _SLOWEST_BYTES_PER_SECOND
    # It hands out what it has become without another copy, unlike a list of chunks.
    arrived = io.BytesIO()
    while chunk := stream.read(_CHUNK):
        arrived.write(chunk)
        if time.monotonic() > deadline:
            stream.close()
            raise TransientError(f"only {arrived.tell()} of {length} bytes came in time")
    data = arrived.getvalue()
    if len(data) != length:
        raise TransientError(f"the answer broke off after {len(data)} of {length} bytes")
    return data


def _brief(error: Exception) -> str:
    # AWS_ENDPOINT_URL and HTTPS_PROXY may hold a password.
    text = re.sub(r"://[^/\s@]*@", "://***@", " ".join(str(error).split()))
    return text or type(error).__name__
