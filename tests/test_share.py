"""Shared constants, on the pools of this process and on processes."""

from __future__ import annotations

import itertools
import pickle

import pytest

import asyncpar
from asyncpar.testing import functions as f


async def test_calls_in_this_process_get_the_very_object():
    table = [1, 2, 3]
    shared = asyncpar.share(table)
    async with asyncpar.ThreadPool(1) as pool:
        assert await pool.run(lambda x: x, shared) is table
        assert await pool.map(lambda x, i: x is table, itertools.repeat(shared), range(3)) == [True] * 3


async def test_a_constant_may_stand_inside_another_argument_of_a_process():
    shared = asyncpar.share([1, 2, 3])
    async with asyncpar.ProcessPool(1) as pool:
        assert await pool.run(f.value_of, shared) == ("list", [1, 2, 3])
        assert await pool.run(f.echo, {"table": shared}) == (({"table": [1, 2, 3]},), {})


async def test_several_constants_and_many_calls():
    first, second = asyncpar.share("ab"), asyncpar.share("cd")
    async with asyncpar.ProcessPool(2) as pool:
        got = await pool.map(f.concat, itertools.repeat(first, 200), itertools.repeat(second, 200))
    assert got == ["abcd"] * 200


def test_a_shared_cannot_be_pickled_elsewhere():
    with pytest.raises(asyncpar.SerializationError, match="only to a pool of asyncpar"):
        pickle.dumps(asyncpar.share(1))


def test_repr_names_the_type():
    assert "Shared list" in repr(asyncpar.share([]))
