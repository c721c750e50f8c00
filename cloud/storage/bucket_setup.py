"""Setting up an S3 bucket for the archive: create it if it is missing, with versioning, without public access.

Versioning is what a thief of the writer's credentials cannot get around: an archive object that is
overwritten or deleted stays as an older version. Object lock and lifecycle rules are the owner's decisions
and are left to them. Not needed for a directory; boto3 is only imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from sync.errors import InvalidConfig, StorageError, Unauthenticated, Unreachable

_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403")


def ensure_bucket(url: str, *, options: Mapping[str, Any] | None = None) -> bool:
    """Make sure that the bucket of ``s3://bucket/prefix`` exists and keeps versions. Whether it was created.

    ``options`` as for ``open_objects`` (``endpoint``, ``region``, ``access_key_id``, ``secret_access_key``). Raises
    InvalidConfig, Unauthenticated, Unreachable or StorageError.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("s3", "s3a") or not parts.netloc:
        raise InvalidConfig(f"not an S3 bucket: {url!r}", hint="s3://bucket/prefix")
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    given = dict(options or {})
    try:
        client = boto3.client(
            "s3",
            endpoint_url=given.get("endpoint"),
            region_name=given.get("region"),
            aws_access_key_id=given.get("access_key_id"),
            aws_secret_access_key=given.get("secret_access_key"),
            aws_session_token=given.get("session_token"),
        )
        return _ensure(client, parts.netloc, ClientError)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        kind = Unauthenticated if code in _DENIED else StorageError
        raise kind(f"cannot set up the bucket {parts.netloc!r}: {error}") from error
    except BotoCoreError as error:
        raise Unreachable(f"cannot reach the object store of {url!r}: {error}") from error


def _ensure(client: Any, bucket: str, client_error: type[Exception]) -> bool:
    created = False
    try:
        client.head_bucket(Bucket=bucket)
    except client_error as error:
        response: Any = getattr(error, "response", {})
        if str(response.get("Error", {}).get("Code")) not in ("404", "NoSuchBucket", "NotFound"):
            raise
        region = client.meta.region_name
        where = {} if region in (None, "us-east-1", "aws-global") else {"LocationConstraint": region}
        client.create_bucket(Bucket=bucket, **({"CreateBucketConfiguration": where} if where else {}))
        client.put_public_access_block(
            Bucket=bucket,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        created = True
    if client.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return created
