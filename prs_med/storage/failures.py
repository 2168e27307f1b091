"""What it means that storage fails: which failures pass, and which somebody has to mend.

What passes is repeated for a while (:mod:`prs_med.storage.retry`) and then is a
:class:`~prs_med.storage.store.StorageAwayError`; what does not is a
:class:`~prs_med.storage.store.StorageError` at once. docs/failures.md has the same table, and what
each program does.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from prs_med.storage.store import StorageAwayError, StorageError


@dataclass(frozen=True)
class Failure:
    """One kind of failure."""

    what: str
    """In words."""
    passing: bool
    codes: frozenset[str] = frozenset()
    """S3's names of errors, or those of the system's error numbers."""
    statuses: frozenset[int] = frozenset()
    """HTTP statuses that mean it whatever the code is."""
    mend: str = ""
    """What to do, for the message."""


_CREDENTIALS = "check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, ... or the instance's role)"

UNREACHABLE = Failure(
    "no server listens, its name is not known, a connection breaks off or falls silent", True
)
NO_CREDENTIALS = Failure(
    "credentials cannot be fetched for now, or have expired: they are read afresh",
    True,
    frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}),
    mend=_CREDENTIALS,
)
DAMAGED_ON_THE_WAY = Failure(
    "a body did not arrive as it was sent",
    True,
    frozenset({"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}),
)
OVERLOADED = Failure(
    "the server is overloaded, throttles, or fails within",
    True,
    frozenset(
        {
            *("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException"),
            *("RequestLimitExceeded", "TooManyRequests", "ServiceUnavailable", "InternalError"),
            *("OperationAborted", "ConditionalRequestConflict"),
        }
    ),
    frozenset({408, 425, 429}),
)
CANNOT = Failure(
    "the server cannot do what was asked, such as write on condition (If-None-Match)",
    False,
    frozenset({"NotImplemented"}),
    frozenset({501, 505}),
    "this server cannot do it: use another one",
)
FULL = Failure(
    "the server's disks or the quota are full",
    False,
    frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientCapacity"}),
    frozenset({507}),
    "make room there",
)
WRONG_CLOCK = Failure(
    "this machine's clock is wrong",
    False,
    frozenset({"RequestTimeTooSkewed", "RequestExpired"}),
    mend="set this machine's clock by NTP",
)
NO_BUCKET = Failure("there is no such bucket", False, frozenset({"NoSuchBucket"}))
WRONG_REGION = Failure(
    "the bucket lies in another region",
    False,
    frozenset(
        {
            *("AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"),
            "IllegalLocationConstraintException",
        }
    ),
    frozenset({301, 302, 307, 308}),
    "give the bucket's region by AWS_DEFAULT_REGION or the profile",
)
WRONG_CREDENTIALS = Failure(
    "the credentials are wrong",
    False,
    frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"}),
    frozenset({401}),
    _CREDENTIALS,
)
NO_RIGHT = Failure(
    "the credentials lack a right, which is named",
    False,
    frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem"}),
    frozenset({403}),
    _CREDENTIALS,
)
OTHER = Failure("any other refusal", False)

OF_S3 = (
    *(UNREACHABLE, OVERLOADED, DAMAGED_ON_THE_WAY, NO_CREDENTIALS),
    *(CANNOT, FULL, WRONG_CLOCK, NO_BUCKET, WRONG_REGION, WRONG_CREDENTIALS, NO_RIGHT, OTHER),
)
"""What S3 answers, or does not."""

FOLDER_AWAY = Failure(
    "a network file system is away",
    True,
    frozenset(
        {
            *("ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH"),
            *("ENETDOWN", "ENETUNREACH", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED"),
        }
    ),
)
NO_LINKS = Failure(
    "a folder for checkpoints has no hard links (gcsfuse, some other FUSE)",
    False,
    frozenset({"EPERM", "EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EMLINK"}),
    mend="name a folder of another file system",
)
OTHER_OF_FOLDERS = Failure("a folder cannot be read or written for any other reason", False)

OF_FOLDERS = (FOLDER_AWAY, NO_LINKS, OTHER_OF_FOLDERS)
"""What the system says of files in folders."""


def s3_failure(status: int, code: str) -> Failure:
    """What an answer of S3 other than success means.

    Args:
        status: of HTTP.
        code: S3's name of the error; may be empty.
    """
    for failure in OF_S3:
        if code in failure.codes:
            return failure
    for failure in OF_S3:
        if status in failure.statuses:
            return failure
    return OVERLOADED if status >= 500 else OTHER


def folder_error(where: str, error: OSError) -> StorageError:
    """The error to raise where the system refuses to read or write a file in a folder.

    Args:
        where: the file's full name.
    """
    name = errno.errorcode.get(error.errno or 0, "")
    kind = StorageAwayError if name in FOLDER_AWAY.codes else StorageError
    return kind(f"{where}: {error.strerror or error}")
