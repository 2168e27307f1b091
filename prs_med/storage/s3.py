"""Files in an S3 bucket.

Credentials come from the standard AWS chain (environment, shared files, instance roles), the
endpoint from the standard variables (``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``) and profiles.
Without credentials requests are sent unsigned, as public buckets allow. ``AWS_REQUEST_PAYER`` says
that the requester pays.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
import urllib3.exceptions
from botocore import UNSIGNED
from botocore.config import Config

from prs_med.storage.failures import (
    CANNOT,
    NO_BUCKET,
    NO_CREDENTIALS,
    NO_RIGHT,
    OTHER,
    WRONG_CREDENTIALS,
    s3_failure,
)
from prs_med.storage.retry import PATIENCE, Outage, TransientError, patiently
from prs_med.storage.store import MissingFileError, StorageAwayError, StorageError, check_name

T = TypeVar("T")

_logger = logging.getLogger("prs_med.storage")

CONNECTIONS = 32
"""Requests of a process that can be under way at once."""
_CONNECT_SECONDS = 10
_SILENCE_SECONDS = 30
_SLOWEST_BYTES_PER_SECOND = 128 * 1024
"""A body that arrives more slowly is asked for again: another connection is often faster."""
_CHUNK = 1 << 18
_ONE_PUT = 5 << 30
"""S3 takes larger files in several parts only."""
_PART = 64 << 20
_MOST_PARTS = 10_000
_PARTS_AT_ONCE = 8
_UPLOAD = ".upload"
"""Behind the name of a file: the note by which its upload in parts is known for ours."""
_ANONYMOUS_ATTEMPTS = 5
"""So often the credentials are looked for again when a request without them is refused."""
_BROKEN_CONNECTION = (
    # No server listens, or its name is not known: so it is for a while when it starts again.
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.FlexibleChecksumError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
)
_NO_CREDENTIALS = (
    # The service that gives them out is away, as a role's may be while many machines start.
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.MetadataRetrievalError,
    botocore.exceptions.NoCredentialsError,
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
        self._outage = Outage()
        self._lock = threading.Lock()
        self._made: Any = None
        self._anonymous = False
        self._refused_anonymous = 0
        """Requests without credentials that were refused since one was not."""

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

        return self._ask(name, "s3:GetObject", get)

    def open(self, name: str) -> None:
        """See :class:`prs_med.storage.store.Store`: here each read is a request."""

    def size(self, name: str) -> int | None:
        """See :class:`prs_med.storage.store.Store`."""

        def head() -> int:
            return int(self._client().head_object(**self._object(name))["ContentLength"])

        try:
            return self._ask(name, "s3:GetObject", head)
        except MissingFileError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """See :class:`prs_med.storage.store.Store`."""
        self._ask(name, "s3:PutObject", lambda: self._put(name, data, _md5(data).hexdigest()))

    def create(self, name: str, data: bytes) -> bool:
        """See :class:`prs_med.storage.store.Store`; one PUT with ``If-None-Match: *``."""
        ours = False

        def put() -> bool:
            nonlocal ours
            condition = {} if ours else {"IfNoneMatch": "*"}
            try:
                self._put(name, data, _md5(data).hexdigest(), **condition)
            except botocore.exceptions.ClientError as error:
                status, code = _status(error), _code(error)
                if status == 412:
                    return False
                if status in (400, 405, 501) and s3_failure(status, code) in (CANNOT, OTHER):
                    raise StorageError(
                        f"{self.where(name)}: the server answers {status} {code} to a write on "
                        "condition (If-None-Match: *), without which two runs could write the same "
                        "checkpoint: checkpoints cannot be kept there; use a server that can do "
                        "it, such as AWS S3, MinIO or Ceph, or keep them in --save_dir alone"
                    ) from error
                raise
            except _DamagedError:
                ours = True  # Nobody else can have it any more, and it is written again.
                raise
            return True

        # An earlier attempt may have arrived although its answer did not.
        return self._ask(name, "s3:PutObject", put) or self.read(name) == data

    def write_file(self, name: str, source: Path) -> None:
        """See :class:`prs_med.storage.store.Store`; large files go in several parts."""
        if source.stat().st_size > _ONE_PUT:
            self._write_in_parts(name, source)
            return

        def put() -> None:
            with source.open("rb") as file:
                digest = hashlib.file_digest(file, _md5).hexdigest()
                file.seek(0)
                self._put(name, file, digest)

        self._ask(name, "s3:PutObject", put)

    def names(self, prefix: str = "") -> list[str]:
        """See :class:`prs_med.storage.store.Store`."""

        return sorted(self.changed(prefix))

    def changed(self, prefix: str) -> dict[str, float]:
        """When each file whose name starts with ``prefix`` was written, in seconds of Unix time.

        Objects that stand for folders, as consoles and Hadoop make them, are no files.
        """

        def collect() -> dict[str, float]:
            pages = self._client().get_paginator("list_objects_v2")
            return {
                entry["Key"].removeprefix(self._prefix): entry["LastModified"].timestamp()
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)
                for entry in page.get("Contents", ())
                if not entry["Key"].endswith(("/", "_$folder$"))
            }

        return self._ask(prefix, "s3:ListBucket", collect)

    def delete(self, name: str) -> None:
        """See :class:`prs_med.storage.store.Store`."""
        self._ask(
            name, "s3:DeleteObject", lambda: self._client().delete_object(**self._object(name))
        )

    def server_time(self) -> float | None:
        """The server's clock in seconds of Unix time, to a second; None if it does not tell."""

        def ask() -> float | None:
            answer = self._client().list_objects_v2(
                Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1
            )
            date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
            return parsedate_to_datetime(date).timestamp() if date else None

        return self._ask("", "s3:ListBucket", ask)

    def sweep(self, folder: str) -> None:
        """See :class:`prs_med.storage.store.Store`: parts of our uploads that were never
        completed. Those of others are not even listed."""
        for note in self.names(f"{folder}/" if folder else ""):
            if note.endswith(_UPLOAD):
                self.abandon(note)

    def abandon(self, note: str) -> None:
        """End the upload that a note of ours names, whose process is gone; any other file of such a
        name stays."""
        try:
            upload = json.loads(self.read(note))["prs_med_upload"]
        except (ValueError, KeyError, TypeError):
            return
        self._abort(note.removesuffix(_UPLOAD), str(upload))
        self.delete(note)

    def _write_in_parts(self, name: str, source: Path) -> None:
        started = self._ask(
            name,
            "s3:PutObject",
            lambda: self._client().create_multipart_upload(**self._object(name)),
        )
        upload = started["UploadId"]
        note = f"{name}{_UPLOAD}"
        try:
            self.write(note, json.dumps({"prs_med_upload": upload}).encode())
            parts = self._put_parts(name, source, upload)
            self._complete(name, upload, parts, source.stat().st_size)
        except BaseException:
            _as_far_as_possible(lambda: self._abort(name, upload))
            raise
        finally:
            _as_far_as_possible(lambda: self.delete(note))
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, _md5).hexdigest()
        if not self._ask(name, "s3:GetObject", lambda: self._holds(name, digest)):
            raise StorageError(f"{self.where(name)}: other bytes arrived than were sent")

    def _put_parts(self, name: str, source: Path, upload: str) -> list[dict[str, Any]]:
        size = source.stat().st_size
        length = max(_PART, -(-size // _MOST_PARTS))

        def put(number: int) -> dict[str, Any]:
            with source.open("rb") as file:
                file.seek((number - 1) * length)
                data = file.read(length)
            answer = self._ask(
                name,
                "s3:PutObject",
                lambda: self._client().upload_part(
                    **self._object(name), UploadId=upload, PartNumber=number, Body=data
                ),
            )
            return {"PartNumber": number, "ETag": answer["ETag"]}

        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
            return list(pool.map(put, range(1, -(-size // length) + 1)))

    def _complete(self, name: str, upload: str, parts: list[dict[str, Any]], size: int) -> None:
        try:
            self._ask(
                name,
                "s3:PutObject",
                lambda: self._client().complete_multipart_upload(
                    **self._object(name), UploadId=upload, MultipartUpload={"Parts": parts}
                ),
            )
        except MissingFileError:
            # An earlier attempt may have arrived although its answer did not.
            if self.size(name) != size:
                raise

    def _abort(self, name: str, upload: str) -> None:
        # It may have been completed or aborted before.
        with suppress(MissingFileError):
            self._ask(
                name,
                "s3:AbortMultipartUpload",
                lambda: self._client().abort_multipart_upload(
                    **self._object(name), UploadId=upload
                ),
            )

    def _put(self, name: str, body: bytes | BinaryIO, md5: str, **condition: str) -> None:
        """Write an object, and compare what arrived with what was sent: not every server looks at
        the checksums that come with a request."""
        answer = self._client().put_object(**self._object(name), Body=body, **condition)
        # With a key of the user's own, or on servers that count otherwise, the tag is no MD5.
        if answer["ETag"].strip('"') != md5 and not self._holds(name, md5):
            raise _DamagedError("other bytes arrived than were sent")

    def _holds(self, name: str, md5: str) -> bool:
        """Whether an object, read back, has this MD5."""
        answer = self._client().get_object(**self._object(name))
        digest = _md5()
        try:
            for chunk in _chunks(answer["Body"], answer["ContentLength"]):
                digest.update(chunk)
        except botocore.exceptions.FlexibleChecksumError:
            return False  # The server keeps the checksum of what was sent beside it.
        return bool(digest.hexdigest() == md5)

    def _key(self, name: str) -> str:
        return self._prefix + check_name(name)

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key(name)}

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made, self._anonymous = _new_client(self.uri, self._bucket)
            return self._made

    def _look_for_credentials_again(self) -> None:
        """Do so at the next request."""
        with self._lock:
            self._made = None

    def _ask(self, name: str, right: str, action: Callable[[], T]) -> T:
        """The result of a request; what may pass is repeated, anything else is an error.

        Args:
            right: what its credentials must be allowed to do, by S3's name.
        """

        def attempt() -> T:
            try:
                result = action()
            except botocore.exceptions.ClientError as error:
                raise self._verdict(name, right, error) from error
            except _NO_CREDENTIALS as error:
                self._look_for_credentials_again()
                raise TransientError(_brief(error)) from error
            except _BROKEN_CONNECTION as error:
                raise TransientError(_brief(error)) from error
            except botocore.exceptions.BotoCoreError as error:
                raise StorageError(f"{self.where(name)}: {_brief(error)}") from error
            self._refused_anonymous = 0
            return result

        try:
            return patiently(self.where(name), attempt, self._patience, self._outage)
        except TransientError as error:
            raise StorageAwayError(
                f"{self.where(name)}: {error}, for {self._patience:.0f} seconds"
            ) from error

    def _verdict(self, name: str, right: str, error: botocore.exceptions.ClientError) -> Exception:
        """What an answer of the server means."""
        status, code = _status(error), _code(error)
        failure = s3_failure(status, code)
        answer = f"the server answers {status} {code}".strip()
        if failure is NO_CREDENTIALS:
            self._look_for_credentials_again()
        if failure.passing:
            return TransientError(answer)
        if failure is NO_BUCKET:
            return StorageError(f"s3://{self._bucket}: there is no such bucket")
        if failure in (NO_RIGHT, WRONG_CREDENTIALS) and self._anonymous:
            self._look_for_credentials_again()
            self._refused_anonymous += 1
            if self._refused_anonymous < _ANONYMOUS_ATTEMPTS:
                return TransientError(f"{answer} to a request without credentials: none were found")
            answer += " to a request without credentials: none were found"
        if status == 404:
            return MissingFileError(f"{self.where(name)}: no such object")
        if status == 416:
            return StorageError(f"{self.where(name)}: is shorter than expected")
        mend = f"; {failure.mend}" if failure.mend else ""
        if failure is NO_RIGHT:
            mend += f", and whether they have the right {right}"
        return StorageError(f"{self.where(name)}: {answer}{mend}")


def _as_far_as_possible(clean_up: Callable[[], None]) -> None:
    try:
        clean_up()
    except StorageError as error:
        _logger.warning("not cleaned up: %s", error)


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: botocore.exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _new_client(uri: str, bucket: str) -> tuple[Any, bool]:
    """A client for S3, and whether it has no credentials.

    Raises:
        StorageError: the endpoint is none.
    """
    session = boto3.Session()
    # Retries are ours: botocore's do not cover bodies that break off, and name no object.
    options: dict[str, Any] = {
        "retries": {"total_max_attempts": 1},
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _SILENCE_SECONDS,
        "max_pool_connections": CONNECTIONS,
    }
    anonymous = session.get_credentials() is None
    if anonymous:
        options["signature_version"] = UNSIGNED
    endpoint = "the endpoint (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile's)"
    try:
        client = session.client(
            "s3", region_name=session.region_name or "us-east-1", config=Config(**options)
        )
    except ValueError as error:
        raise StorageError(
            f"{uri}: {_brief(error)}; {endpoint} is written with http:// or https://"
        ) from None
    path = urlsplit(client.meta.endpoint_url).path.rstrip("/")
    if path.rpartition("/")[2] == bucket:
        raise StorageError(
            f"{uri}: {endpoint} ends in {path}, but the bucket is named here: leave it out there"
        )
    _let_the_requester_pay(client)
    return client, anonymous


def _let_the_requester_pay(client: Any) -> None:
    payer = os.environ.get("AWS_REQUEST_PAYER")
    if not payer:
        return
    if payer != "requester":
        raise StorageError(f"AWS_REQUEST_PAYER {payer}: allowed is requester")

    def add(request: Any, **_: Any) -> None:
        request.headers["x-amz-request-payer"] = payer

    client.meta.events.register("before-sign.s3", add)


def _body(stream: Any, length: int) -> bytes:
    """The body of an answer, of which ``length`` bytes were announced."""
    # It hands out what it has become without another copy, unlike a list of chunks.
    arrived = io.BytesIO()
    for chunk in _chunks(stream, length):
        arrived.write(chunk)
    return arrived.getvalue()


def _chunks(stream: Any, length: int) -> Iterator[bytes]:
    """The body of an answer in pieces."""
    deadline = time.monotonic() + _SILENCE_SECONDS + length / _SLOWEST_BYTES_PER_SECOND
    arrived = 0
    while chunk := stream.read(_CHUNK):
        arrived += len(chunk)
        yield chunk
        if time.monotonic() > deadline:
            stream.close()
            raise TransientError(f"only {arrived} of {length} bytes came in time")
    if arrived != length:
        raise TransientError(f"the answer broke off after {arrived} of {length} bytes")


def _brief(error: Exception) -> str:
    # AWS_ENDPOINT_URL and HTTPS_PROXY may hold a password.
    text = re.sub(r"://[^/\s@]*@", "://***@", " ".join(str(error).split()))
    return text or type(error).__name__
