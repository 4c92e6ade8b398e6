"""The object store's client, against the local Lambda's store."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest

pytest.importorskip("awslambdaric", reason="needs the extra 'lambda-local'")

from asyncpar_lambda.errors import StoreError
from asyncpar_lambda.local import LocalLambda
from asyncpar_lambda.sigv4 import Credentials
from asyncpar_lambda.store import Store
from asyncpar_lambda.transport.identity import FixedIdentity

IDENTITY = FixedIdentity(Credentials("local", "local"))


def open_store(cloud, bucket="jobs"):
    return Store(cloud.endpoint_url, "us-east-1", bucket, "jobs/one/", IDENTITY, by_path=True)


async def test_objects_are_written_and_read_under_the_prefix():
    async with LocalLambda() as cloud:
        await cloud.create_bucket("jobs")
        store = open_store(cloud)
        data = bytes(range(256)) * 10_000
        await store.put("requests/1", data)
        assert await store.get("requests/1") == data
        assert b"<Key>jobs/one/requests/1</Key>" in (await cloud.request("GET", "/jobs?list-type=2"))[1]
        await store.aclose()


async def test_a_presigned_url_is_good_for_anybody():
    async with LocalLambda() as cloud:
        await cloud.create_bucket("jobs")
        store = open_store(cloud)
        sign = await store.presigner(60)

        def send(method, data=None):
            request = urllib.request.Request(sign(method, "answers/1"), data=data, method=method)
            with urllib.request.urlopen(request) as reply:
                return reply.read()

        await asyncio.to_thread(send, "PUT", b"an answer")
        assert await asyncio.to_thread(send, "GET") == b"an answer"
        assert await store.get("answers/1") == b"an answer"
        await store.aclose()


async def test_what_is_not_there_is_named():
    async with LocalLambda() as cloud:
        store = open_store(cloud, "nowhere")
        with pytest.raises(StoreError, match=r"answered PUT requests/1 with 404: .*NoSuchBucket"):
            await store.put("requests/1", b"")
        await cloud.create_bucket("nowhere")
        with pytest.raises(StoreError, match=r"answered GET answers/7 with 404: .*NoSuchKey"):
            await store.get("answers/7")
        await store.aclose()


async def test_a_bucket_goes_before_the_host_on_aws():
    store = Store("http://s3.eu-west-1.amazonaws.com", "eu-west-1", "jobs", "jobs/one/", IDENTITY)
    sign = await store.presigner(60)
    url = sign("GET", "answers/1")
    assert url.startswith("http://jobs.s3.eu-west-1.amazonaws.com/jobs/one/answers/1?X-Amz-Algorithm=")
    await store.aclose()
