"""Shared constants in the object store of a local Lambda, in days that the test makes."""

from __future__ import annotations

import asyncio
import gc

import pytest

pytest.importorskip("awslambdaric", reason="needs the extra 'lambda-local'")

import asyncpar
from asyncpar_lambda import codec
from asyncpar_lambda.constants import Constants
from asyncpar_lambda.errors import StoreError
from asyncpar_lambda.local import LocalLambda
from asyncpar_lambda.sigv4 import Credentials
from asyncpar_lambda.store import Store
from asyncpar_lambda.transport.identity import FixedIdentity

HOUR = 3600.0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Place:
    """A bucket, constants that lie in it, and a clock."""

    def __init__(self, cloud):
        self.cloud, self.clock = cloud, Clock()
        identity = FixedIdentity(Credentials("local", "local"))
        self.store = Store(
            cloud.endpoint_url, "us-east-1", "jobs", "jobs/one/", identity, by_path=True, patience=0
        )
        self.constants = Constants(self.store, codec.dumps, 1, self.clock)

    async def blob(self, one):
        return await self.constants.blob(one, await self.store.presigner(60))

    async def puts(self):
        return (await self.cloud.statistics())["puts"]


@pytest.fixture
async def place():
    async with LocalLambda() as cloud:
        made = Place(cloud)
        await cloud.create_bucket("jobs")
        yield made
        await made.constants.aclose()
        await made.store.aclose()


async def test_a_constant_is_put_once_however_many_ask_at_once(place):
    one = asyncpar.share([1, 2])
    blobs = await asyncio.gather(*[place.blob(one) for _ in range(10)])
    assert len({blob.sha256 for blob in blobs}) == 1
    assert await place.puts() == 1


async def test_it_is_put_again_when_half_of_its_days_are_over(place):
    one = asyncpar.share([1, 2])
    for hour, puts in ((0, 1), (11, 1), (13, 2), (24, 2), (26, 3)):
        place.clock.now = hour * HOUR
        await place.blob(one)
        assert await place.puts() == puts


async def test_what_was_missing_is_put_again_once(place):
    one, other = asyncpar.share([1, 2]), asyncpar.share([3])
    await place.blob(one)
    await place.blob(other)
    place.clock.now = 1
    for _ in range(3):  # as many workers as missed it
        place.constants.missing([one.number], 0.5)
        await place.blob(one)
        await place.blob(other)
    assert await place.puts() == 3


async def test_what_could_not_be_put_is_put_the_next_time(place):
    one = asyncpar.share([1, 2])
    await place.cloud.request("DELETE", "/jobs")
    with pytest.raises(StoreError, match="answered PUT constants/"):
        await place.blob(one)
    await place.cloud.create_bucket("jobs")
    assert (await place.blob(one)).id == str(one.number)


async def test_what_is_gone_is_forgotten(place):
    one = asyncpar.share([1, 2])
    await place.blob(one)
    del one
    gc.collect()
    assert not place.constants._put
