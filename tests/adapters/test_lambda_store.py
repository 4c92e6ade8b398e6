"""The object store's client, against the local Lambda's store."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest

pytest.importorskip("awslambdaric", reason="needs the extra 'lambda-local'")

from asyncpar_lambda import objects
from asyncpar_lambda.errors import MissingError, StoreError
from asyncpar_lambda.local import LocalLambda
from asyncpar_lambda.sigv4 import Credentials
from asyncpar_lambda.store import Store
from asyncpar_lambda.transport.identity import FixedIdentity

IDENTITY = FixedIdentity(Credentials("local", "local"))


def open_store(cloud, bucket="jobs", **options):
    return Store(cloud.endpoint_url, "us-east-1", bucket, "jobs/one/", IDENTITY, by_path=True, **options)


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


async def test_a_bucket_of_somebody_else_gets_nothing():
    """Its name was free, and whoever has it now would get what is written there."""
    async with LocalLambda() as cloud:
        await cloud.create_bucket("jobs")
        ours, theirs = (open_store(cloud, owner=owner) for owner in ("000000000000", "111111111111"))
        await ours.put("requests/1", b"x")
        with pytest.raises(StoreError, match=r"answered PUT requests/1 with 403: .*AccessDenied"):
            await theirs.put("requests/1", b"y")
        with pytest.raises(MissingError, match="answered GET requests/1 with 403"):
            await theirs.get("requests/1")
        good, bad = [(await store.presigner(60))("PUT", "answers/1") for store in (ours, theirs)]
        assert (await asyncio.to_thread(objects.put, good, b"x", owner="000000000000"))[0] == 200
        with pytest.raises(StoreError, match=r"403 to a PUT: .*AccessDenied"):
            await asyncio.to_thread(objects.put, bad, b"x", owner="111111111111")
        with pytest.raises(StoreError, match=r"403 to a PUT: .*was signed and not sent"):
            await asyncio.to_thread(objects.put, good, b"x")
        objects._connections.popitem()[1].close()
        await ours.aclose()
        await theirs.aclose()


async def test_a_store_that_is_out_of_reach_is_asked_until_patience_is_over():
    async with LocalLambda() as cloud:
        store = open_store(cloud, patience=0.3)
        await cloud.aclose()
        with pytest.raises(StoreError, match=r"PUT requests/1: .*; given up after \d+ attempts in \d+\.\d s"):
            await store.put("requests/1", b"x")
        await store.aclose()


async def test_a_bucket_goes_before_the_host_on_aws():
    store = Store("http://s3.eu-west-1.amazonaws.com", "eu-west-1", "jobs", "jobs/one/", IDENTITY)
    sign = await store.presigner(60)
    url = sign("GET", "answers/1")
    assert url.startswith("http://jobs.s3.eu-west-1.amazonaws.com/jobs/one/answers/1?X-Amz-Algorithm=")
    await store.aclose()
