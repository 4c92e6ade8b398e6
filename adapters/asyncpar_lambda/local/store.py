"""The slice of S3 that asyncpar needs: buckets, objects, conditions, presigned URLs, lists. Kept in memory."""

from __future__ import annotations

import hashlib
import re
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote
from xml.sax.saxutils import escape, unescape

from asyncpar_lambda.local.functions import ACCOUNT
from asyncpar_lambda.local.http import Request

OWNER = "x-amz-expected-bucket-owner"
XML = {"Content-Type": "application/xml"}
MOST_KEYS = 1000


class Item:
    """One object."""

    __slots__ = ("content_type", "data", "etag", "modified")

    def __init__(self, data: bytes, content_type: str) -> None:
        self.data = data
        self.content_type = content_type
        self.etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        self.modified = time.time()


class Store:
    """Buckets by name; requests in path style."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.buckets: dict[str, dict[str, Item]] = {}
        self.settings: dict[tuple[str, str], bytes] = {}
        self.counts = {"puts": 0, "gets": 0}

    def handle(self, request: Request) -> None:
        """One request of S3's REST API."""
        bucket, _, key = unquote(request.path.lstrip("/")).partition("/")
        if expired(request.query):
            fail(request, 403, "AccessDenied", "Request has expired")
        elif request.headers.get(OWNER, ACCOUNT) != ACCOUNT:
            fail(request, 403, "AccessDenied", "Access Denied")
        elif OWNER not in request.headers and OWNER in request.query.get("X-Amz-SignedHeaders", ""):
            fail(request, 403, "SignatureDoesNotMatch", f"{OWNER} was signed and not sent")
        elif not bucket:
            self.list_buckets(request)
        elif not key:
            self.on_bucket(request, bucket)
        elif bucket not in self.buckets:
            fail(request, 404, "NoSuchBucket", f"The specified bucket does not exist: {bucket}")
        elif request.method == "PUT":
            self.put(request, bucket, key)
        elif request.method in ("GET", "HEAD"):
            self.get(request, bucket, key)
        elif request.method == "DELETE":
            self.buckets[bucket].pop(key, None)
            request.answer(204)
        else:
            fail(request, 405, "MethodNotAllowed", "not in this slice of S3")

    # -- objects

    def put(self, request: Request, bucket: str, key: str) -> None:
        """Keep an object, if its conditions hold."""
        self.counts["puts"] += 1
        items = self.buckets[bucket]
        standing = items.get(key)
        wanted = request.headers.get("if-match")
        if request.headers.get("if-none-match") == "*" and standing is not None:
            fail(
                request,
                412,
                "PreconditionFailed",
                "At least one of the pre-conditions you specified did not hold",
            )
        elif wanted is not None and standing is None:
            fail(request, 404, "NoSuchKey", "The specified key does not exist.")
        elif wanted is not None and standing is not None and wanted.strip('"') != standing.etag.strip('"'):
            fail(
                request,
                412,
                "PreconditionFailed",
                "At least one of the pre-conditions you specified did not hold",
            )
        else:
            content_type = request.headers.get("content-type", "binary/octet-stream")
            item = items[key] = Item(_payload(request), content_type)
            request.answer(200, b"", {"ETag": item.etag})

    def get(self, request: Request, bucket: str, key: str) -> None:
        """An object, or a range of it."""
        self.counts["gets"] += 1
        item = self.buckets[bucket].get(key)
        if item is None:
            fail(request, 404, "NoSuchKey", "The specified key does not exist.")
            return
        headers = {
            "ETag": item.etag,
            "Content-Type": item.content_type,
            "Last-Modified": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(item.modified)),
            "Accept-Ranges": "bytes",
        }
        span = request.headers.get("range", "")
        if not span.startswith("bytes="):
            if request.method == "HEAD":
                headers["Content-Length"] = str(len(item.data))
            request.answer(200, item.data, headers)
            return
        first, _, last = span.removeprefix("bytes=").partition("-")
        begin = int(first) if first else max(0, len(item.data) - int(last))
        end = min(int(last) + 1, len(item.data)) if first and last else len(item.data)
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(item.data)}"
        request.answer(206, item.data[begin:end], headers)

    # -- buckets

    def on_bucket(self, request: Request, bucket: str) -> None:
        """Make, look at, list, empty or remove a bucket, or one of its settings."""
        method = request.method
        setting = next((name for name in SETTINGS if name in request.query), None)
        if method == "PUT" and setting is None:
            self.buckets.setdefault(bucket, {})
            request.answer(200, b"", {"Location": f"/{bucket}"})
        elif bucket not in self.buckets:
            fail(request, 404, "NoSuchBucket", f"The specified bucket does not exist: {bucket}")
        elif setting is not None:
            self.on_setting(request, bucket, setting)
        elif method == "POST" and "delete" in request.query:
            self.delete_many(request, bucket)
        elif method == "HEAD":
            request.answer(200, b"", {"x-amz-bucket-region": self.region})
        elif method == "GET":
            self.list_objects(request, bucket)
        elif method == "DELETE" and self.buckets[bucket]:
            fail(request, 409, "BucketNotEmpty", "The bucket you tried to delete is not empty")
        elif method == "DELETE":
            del self.buckets[bucket]
            self.settings = {at: value for at, value in self.settings.items() if at[0] != bucket}
            request.answer(204)
        else:
            fail(request, 405, "MethodNotAllowed", "not in this slice of S3")

    def on_setting(self, request: Request, bucket: str, setting: str) -> None:
        """Kept as they come: lifecycle, encryption and the like have no effect here."""
        if request.method == "PUT":
            self.settings[bucket, setting] = request.body
            request.answer(200)
        elif request.method == "DELETE":
            self.settings.pop((bucket, setting), None)
            request.answer(204)
        elif (bucket, setting) in self.settings:
            request.answer(200, self.settings[bucket, setting], XML)
        elif setting == "location":
            request.answer(200, f"<LocationConstraint>{self.region}</LocationConstraint>".encode(), XML)
        else:
            fail(request, 404, SETTINGS[setting], "there is no such configuration")

    def list_buckets(self, request: Request) -> None:
        """All of them."""
        rows = "".join(
            f"<Bucket><Name>{escape(name)}</Name><CreationDate>2026-01-01T00:00:00Z</CreationDate></Bucket>"
            for name in sorted(self.buckets)
        )
        request.answer(
            200, f"<ListAllMyBucketsResult><Buckets>{rows}</Buckets></ListAllMyBucketsResult>".encode(), XML
        )

    def list_objects(self, request: Request, bucket: str) -> None:
        """A page of keys."""
        prefix = request.query.get("prefix", "")
        after = request.query.get("continuation-token") or request.query.get("start-after", "")
        most = min(int(request.query.get("max-keys", MOST_KEYS)), MOST_KEYS)
        keys = sorted(key for key in self.buckets[bucket] if key.startswith(prefix) and key > after)
        more = len(keys) > most
        keys = keys[:most]
        items = self.buckets[bucket]
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(items[key].data)}</Size><ETag>{escape(items[key].etag)}</ETag>"
            f"<LastModified>{_iso(items[key].modified)}</LastModified></Contents>"
            for key in keys
        )
        token = f"<NextContinuationToken>{escape(keys[-1])}</NextContinuationToken>" if more else ""
        body = (
            f"<ListBucketResult><Name>{escape(bucket)}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(keys)}"
            f"</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"
        )
        request.answer(200, body.encode(), XML)

    def delete_many(self, request: Request, bucket: str) -> None:
        """The keys that the request lists."""
        keys = [unescape(key) for key in re.findall(r"<Key>(.*?)</Key>", request.body.decode())]
        for key in keys:
            self.buckets[bucket].pop(key, None)
        rows = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        request.answer(200, f"<DeleteResult>{rows}</DeleteResult>".encode(), XML)


SETTINGS = {
    "lifecycle": "NoSuchLifecycleConfiguration",
    "publicAccessBlock": "NoSuchPublicAccessBlockConfiguration",
    "encryption": "ServerSideEncryptionConfigurationNotFoundError",
    "policy": "NoSuchBucketPolicy",
    "tagging": "NoSuchTagSet",
    "versioning": "NoSuchVersioning",
    "ownershipControls": "OwnershipControlsNotFoundError",
    "location": "NoSuchLocation",
}
"""What can be set for a bucket, and the error of S3 where it is not."""


def fail(request: Request, status: int, code: str, message: str) -> None:
    """An error of S3."""
    body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()
    request.answer(status, body, XML)


def expired(query: dict[str, str]) -> bool:
    """Whether this is a presigned URL whose time is over."""
    if "X-Amz-Expires" not in query:
        return False
    made = datetime.strptime(query.get("X-Amz-Date", ""), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return made + timedelta(seconds=int(query["X-Amz-Expires"])) < datetime.now(UTC)


def _payload(request: Request) -> bytes:
    """The content; boto3 may send it in chunks with a checksum behind."""
    if "aws-chunked" not in request.headers.get("content-encoding", ""):
        return request.body
    parts = []
    rest = request.body
    while rest:
        head, _, rest = rest.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if not size:
            break
        parts.append(rest[:size])
        rest = rest[size + 2 :]
    return b"".join(parts)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
