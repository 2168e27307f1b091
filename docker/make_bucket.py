"""Make a bucket on the S3 server of the environment once it answers: ``make_bucket.py NAME``"""

from __future__ import annotations

import sys
import time

import boto3
from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnectionError

PATIENCE_S = 60


def main(bucket: str) -> int:
    """The exit status: 0 if the bucket is there."""
    client = boto3.client("s3")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.create_bucket(Bucket=bucket)
            return 0
        except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            return 0
        except (ClientError, HTTPClientError, NoConnectionError) as error:
            if time.monotonic() > deadline:
                print(f"error: no bucket {bucket}: {error}", file=sys.stderr)
                return 1
            time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
