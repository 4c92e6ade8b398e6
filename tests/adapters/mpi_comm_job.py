"""The ranks' side of ``test_mpi_comm.py``: each scenario runs on every rank, and rank 0 says when all are through it.

Started by ``mpiexec -n 4 python -m mpi4py mpi_comm_job.py LOOP [WITHOUT ...]``; an assertion that fails on any rank ends the job.
"""

from __future__ import annotations

import asyncio
import gc
import operator
import re
import sys
import weakref

import numpy as np
from mpi4py import MPI

from asyncpar.errors import SerializationError
from asyncpar_mpi import ChannelError, Comm
from asyncpar_mpi.progress import abandoned, of_loop

SIZES = (1, 1_000, 20_000, 1_100_000)  # numbers: in the head, beside it, in a message of its own, in pieces


def raises(kind, text):
    """What an awaitable must do; the message has to match."""

    class Check:
        def __enter__(self):
            return self

        def __exit__(self, raised, error, traceback):
            assert raised is not None, f"{kind.__name__} was not raised"
            if not issubclass(raised, kind):
                return False
            assert re.search(text, str(error)), f"{text!r} is not in {error!s}"
            return True

    return Check()


async def cancelled(task):
    """Cancel a task once it has begun, and see that it is."""
    await asyncio.sleep(0.01)
    task.cancel()
    done, _ = await asyncio.wait([task])
    assert done == {task}
    assert task.cancelled()


async def objects(comm):
    rank, size = comm.rank, comm.size
    for count in SIZES:
        mine = np.full(count, float(rank))
        for root in range(size) if count < 100_000 else [1]:
            got = await comm.bcast({"from": rank, "array": mine} if rank == root else None, root)
            assert got["from"] == root
            assert (got["array"] == root).all()
            assert got["array"].flags.writeable
        part = await comm.scatter([np.full(count, r) for r in range(size)] if rank == 1 else None, 1)
        assert part.shape == (count,)
        assert (part == rank).all()
        gathered = await comm.gather(mine, 2)
        assert (gathered is None) == (rank != 2)
        for each in (gathered or [], await comm.allgather(mine)):
            assert [array[-1] for array in each] in ([], list(range(size)))
        theirs = await comm.alltoall([np.full(count, 10 * rank + r) for r in range(size)])
        assert [set(array) for array in theirs] == [{10 * r + rank} for r in range(size)]


async def own_items_are_copies(comm):
    for count in SIZES[:3]:
        mine = np.full(count, comm.rank)
        gathered = await comm.allgather(mine)
        mine[:] = -1
        assert (gathered[comm.rank] == comm.rank).all()
        gathered[comm.rank][:] = 5  # and may be changed


async def reductions(comm):
    rank, size = comm.rank, comm.size
    for root in range(size):
        assert await comm.reduce([rank], operator.add, root) == (list(range(size)) if rank == root else None)
    assert await comm.allreduce(str(rank), operator.add) == "0123"  # in the order of ranks
    assert await comm.allreduce(rank) == sum(range(size))
    assert await comm.allreduce(rank, MPI.MAX) == size - 1
    total = await comm.allreduce(np.full(300_000, rank))
    assert (total == sum(range(size))).all()


async def messages(comm):
    rank, size = comm.rank, comm.size
    right, left = (rank + 1) % size, (rank - 1) % size
    for count in SIZES:
        mine = np.full(count, rank)
        _, got = await asyncio.gather(comm.send(mine, right, 3), comm.recv(left, 3))
        assert (got == left).all()
        assert len(got) == count
        into, status = np.zeros(count + 1, mine.dtype), MPI.Status()
        await asyncio.gather(comm.Send(mine, right), comm.Recv(into, status=status))
        assert (into[:-1] == left).all()
        assert into[-1] == 0
        assert (status.source, status.tag, status.Get_count(MPI.LONG)) == (left, 0, count)
    await comm.barrier()  # until here rank 0 receives from anybody
    if rank == 0:  # of several, by tag and by whoever is first
        status, senders = MPI.Status(), set()
        for _ in range(size - 1):
            assert await comm.recv(MPI.ANY_SOURCE, 7, status) == [status.source] * 50_000
            senders.add(status.source)
        assert senders == set(range(1, size))
        assert [await comm.recv(r, 8) for r in range(1, size)] == list(range(1, size))
    else:
        await asyncio.gather(comm.send(rank, 0, 8), comm.send([rank] * 50_000, 0, 7))
    assert await comm.recv(MPI.PROC_NULL) is None
    await comm.send("nobody", MPI.PROC_NULL)


async def buffers(comm):
    rank, size = comm.rank, comm.size
    everybody = np.arange(size)
    for count in SIZES:
        mine = np.full(count, float(rank))
        buffer = np.full((count, 2), rank, dtype="c16", order="F")
        await comm.Bcast(buffer, 1)
        assert (buffer == 1).all()
        part = np.zeros(count)
        await comm.Scatter(np.repeat(everybody, count).astype(float) if rank == 2 else None, part, 2)
        assert (part == rank).all()
        whole = np.zeros((size, count))
        await comm.Gather(mine, whole if rank == 1 else None, 1)
        assert (whole[:, -1] == (everybody if rank == 1 else 0)).all()
        await comm.Allgather(mine, whole)
        assert (everybody == whole.T).all()
        theirs = np.zeros(count * size)
        await comm.Alltoall(np.repeat(everybody, count) + 10.0 * rank, theirs)
        assert (theirs == np.repeat(everybody * 10 + rank, count)).all()
        total = np.zeros(count)
        await comm.Allreduce(mine, total)
        assert (total == everybody.sum()).all()
        await comm.Reduce(MPI.IN_PLACE if rank == 3 else mine, mine if rank == 3 else None, MPI.MAX, 3)
        assert (mine == rank).all()  # of rank 3, the greatest: its own
        await comm.Allreduce([mine, MPI.DOUBLE], [total, MPI.DOUBLE], MPI.PROD)
        assert (total == 0).all()
    nothing = bytearray()
    await comm.Bcast(nothing)
    await comm.Allgather(b"", nothing)
    text = bytearray(3)
    await asyncio.gather(comm.Send(b"abc", rank), comm.Recv(text, rank))
    assert text == b"abc"


def payloads():
    """What Hypothesis thinks of: objects with arrays, around every size at which something changes."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    sizes = st.sampled_from([0, 1, 990, 1008, 1009, 1024, 65_500, 65_521, 65_535, 65_536, 65_537, 200_000])
    leaves = st.one_of(
        st.none(), st.integers(), st.text(), st.binary(), sizes.map(bytes), sizes.map(bytearray),
        hnp.arrays(st.sampled_from(["f8", "c16", "?", "M8[s]", "U3", "i4,f8"]), hnp.array_shapes(max_side=5)),
        sizes.map(lambda size: np.arange(size, dtype="u1")),
        sizes.map(lambda size: np.ones((size, 3), order="F")), sizes.map(lambda size: np.ones(size)[::2]),
    )  # fmt: skip
    found = []

    @settings(max_examples=30, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(
        st.recursive(
            leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3)
        )
    )
    def collect(payload):
        found.append(payload)

    collect()
    return found


def same(one, two):
    """Equal, in type and in all that it holds."""
    if type(one) is not type(two):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


async def whatever_hypothesis_finds(comm):
    rank, size = comm.rank, comm.size
    found = payloads() if rank == 0 else None
    await comm.barrier()  # the others sleep until then
    found = MPI.COMM_WORLD.bcast(found)  # by a way that is not under test
    assert len(found) >= 20
    for at in range(0, len(found) - size, size):
        each = found[at : at + size]
        assert same(await comm.allgather(each[rank]), each)
        assert same(await comm.scatter(each if rank == 1 else None, 1), each[rank])
        assert same(await comm.bcast(each if rank == 2 else None, 2), each)
        _, got = await asyncio.gather(comm.send(each, (rank + 1) % size), comm.recv())
        assert same(got, each)


async def one_channel_in_two_orders(comm):
    """The trap: on one communicator both sums are silently wrong. One channel refuses it, two channels are right."""
    rank, size = comm.rank, comm.size
    plain = MPI.COMM_WORLD.Dup()
    ones, hundreds = np.zeros(1), np.zeros(1)
    starts = [(np.full(1, 1.0), ones), (np.full(1, 100.0), hundreds)]
    requests = [plain.Iallreduce(*each) for each in (starts if rank % 2 else starts[::-1])]
    MPI.Request.Waitall(requests)
    plain.Free()
    assert (ones[0], hundreds[0]) != (size, 100 * size), "MPI has become forgiving"

    first = asyncio.create_task(comm.allreduce(1), name="ones")
    second = asyncio.create_task(comm.bcast(100), name="hundreds")
    done = await asyncio.gather(first, second, return_exceptions=True)
    assert done[0] == size
    assert isinstance(done[1], ChannelError)
    for words in (
        "bcast() of task 'hundreds'",
        "allreduce() of task 'ones'",
        "async with comm.dup() as channel",
    ):
        assert words in str(done[1])
    await comm.barrier()

    async with comm.dup() as other:
        turn = asyncio.Event()

        async def sum_of(channel, value, *, first):
            if not first:
                await turn.wait()
            summing = asyncio.ensure_future(channel.allreduce(np.full(40_000, value)))
            await asyncio.sleep(0)
            turn.set()
            return (await summing)[0]

        sums = sum_of(comm, 1, first=rank % 2 == 0), sum_of(other, 100, first=rank % 2 == 1)
        assert await asyncio.gather(*sums) == [size, 100 * size]


async def overlapping_messages(comm):
    """Two of a kind that could be taken for each other are refused; by tag they are told apart."""
    if comm.rank == 0:
        waiting = asyncio.create_task(comm.recv(1, 5))
        await asyncio.sleep(0)
        with raises(ChannelError, r"recv\(\) of task .* began while recv\(\) .* a tag of its own"):
            await comm.recv(MPI.ANY_SOURCE, MPI.ANY_TAG)
        other = asyncio.create_task(comm.recv(1, 6))
        await comm.barrier()
        assert await asyncio.gather(waiting, other) == [5, 6]
    else:
        await comm.barrier()
        if comm.rank == 1:
            await asyncio.gather(comm.send(6, 0, 6), comm.send(5, 0, 5))


async def cancelled_collective(comm):
    """MPI goes on with it, and keeps its buffer; the channel is of use again when the others have joined."""
    async with comm.dup() as channel:
        if comm.rank == 0:
            buffer = np.zeros(400_000)
            kept = weakref.ref(buffer)
            task = asyncio.create_task(channel.Bcast(buffer, 1), name="impatient")
            await cancelled(task)
            del buffer, task
            gc.collect()
            assert kept() is not None
            with raises(
                ChannelError,
                r"barrier\(\) cannot begin: Bcast\(\) of task 'impatient' was cancelled.*drained\(\)",
            ):
                await channel.barrier()
            draining = asyncio.create_task(channel.drained())
            await cancelled(draining)  # which changes nothing
            await comm.barrier()
            await channel.drained()
            gc.collect()
            assert kept() is None
        else:
            await comm.barrier()
            await channel.Bcast(np.ones(400_000), 1)
        assert await channel.allreduce(1) == comm.size


async def leaving_waits_for_what_was_cancelled(comm):
    async with comm.dup() as channel:
        if comm.rank == 0:
            await cancelled(asyncio.create_task(channel.bcast(None, 1)))
            rest = asyncio.create_task(comm.barrier())
            await asyncio.sleep(0)
        else:
            await comm.barrier()
            assert await channel.bcast("there", 1) == "there"
    if comm.rank == 0:
        await rest
        assert not of_loop().running
    with raises(ChannelError, "not open: enter it"):
        await channel.barrier()


async def cancelled_messages(comm):
    """A send goes on, whole; a receive to which nothing came is given up, and loses nothing."""
    if comm.rank == 0:
        array = np.arange(1_500_000)
        await cancelled(asyncio.create_task(comm.send({"whole": array}, 1)))
        del array
        await comm.barrier()
        await comm.drained()
        assert await comm.recv(1) == "kept"
    elif comm.rank == 1:
        await cancelled(asyncio.create_task(comm.recv(0, 9)))
        await cancelled(asyncio.create_task(comm.Recv(np.zeros(1), 0, 9)))
        assert not of_loop().running
        await comm.barrier()
        got = await comm.recv(0)
        assert (got["whole"] == np.arange(1_500_000)).all()
        await comm.send("kept", 0)
    else:
        await comm.barrier()


async def the_loop_stays_free(comm):
    """Other tasks run while a rank waits for the others, which wait until they did."""
    if comm.rank == 0:
        waiting = asyncio.create_task(comm.barrier())
        for _ in range(50):
            await asyncio.sleep(0.0005)
            assert not waiting.done()
        for rank in range(1, comm.size):
            await comm.send("go", rank, 4)
        await waiting
    else:
        assert await comm.recv(0, 4) == "go"
        await comm.barrier()


async def refused_buffers(comm):
    numbers, size = np.zeros(6), comm.size
    with raises(
        ValueError,
        rf"Allgather\(\): recvbuf holds 6 items of 8 bytes \(d\), but {size} ranks .* make it 192 bytes",
    ):
        await comm.Allgather(numbers, np.zeros(6))
    with raises(
        TypeError, r"sendbuf holds 6 items of 8 bytes \(d\), but recvbuf 12 items of 4 bytes \(f\).*one dtype"
    ):
        await comm.Allreduce(numbers, np.zeros(12, "f4"))
    with raises(ValueError, r"Alltoall\(\): sendbuf holds 6 items.*a multiple of 4"):
        await comm.Alltoall(numbers, np.zeros(6))
    with raises(
        TypeError,
        r"Bcast\(\): buf must be a.* contiguous buffer in host memory, as of numpy.ascontiguousarray",
    ):
        await comm.Bcast(numbers[::2])
    with raises(TypeError, r"Recv\(\): buf must be a writable"):
        await comm.Recv(b"abc")
    with raises(TypeError, "MPI cannot calculate with items of format 'T"):
        await comm.Allreduce(np.zeros(2, "i4,f8"), np.zeros(2, "i4,f8"))
    with raises(ValueError, r"bcast\(\): 9 is none of the ranks, which are 0 to 3"):
        await comm.bcast(1, 9)
    with raises(ValueError, r"Bcast\(\): -1 is none"):
        await comm.Bcast(numbers, -1)
    with raises(ValueError, r"send\(\): 4 is none"):
        await comm.send(1, 4)
    await comm.barrier()


async def refused_objects(comm):
    """Every rank learns of it, and none waits; the channel is in order afterwards."""
    rank = comm.rank
    with raises(SerializationError, r"bcast\(\): .*lambda.* of rank 1 cannot be pickled"):
        await comm.bcast((lambda: 0) if rank == 1 else None, 1)
    with raises(ValueError, r"scatter\(\): rank 0 gave 3 items: give a list of 4"):
        await comm.scatter([1, 2, 3] if rank == 0 else None)
    with raises(SerializationError, "of rank 2 cannot be pickled"):
        await comm.allgather((lambda: 0) if rank == 2 else 1)
    with raises(ValueError, r"alltoall\(\): rank 3 gave 0 items"):
        await comm.alltoall(list(range(4)) if rank != 3 else [])

    def divide(one, two):
        return one / two

    with raises(ZeroDivisionError, "division by zero"):
        await comm.allreduce(1 if rank < 3 else 0, divide)
    if rank in (0, 2):  # where 2/0 is calculated, and the root
        with raises(ZeroDivisionError, "division by zero"):
            await comm.reduce(1 if rank < 3 else 0, divide)
    else:
        assert await comm.reduce(1 if rank < 3 else 0, divide) is None
    if rank == 0:
        with raises(SerializationError, "of rank 3 cannot be pickled"):
            await comm.gather(1)
    elif rank == 3:
        with raises(SerializationError, "of rank 3 cannot be pickled"):
            await comm.gather(lambda: 0)
    else:
        await comm.gather(1)
    assert await comm.allreduce(1) == comm.size


async def refused_messages(comm):
    if comm.rank == 0:
        await asyncio.gather(comm.Send(np.zeros(200_000), 1, 1), comm.Send(np.zeros(2), 1, 2),
                             comm.send([1], 1, 3), comm.send("fine", 1, 4))  # fmt: skip
    if comm.rank == 1:
        with raises(ValueError, r"rank 0 sent 1600000 bytes, but buf holds 1 items of 8 bytes .*larger"):
            await comm.Recv(np.zeros(1), 0, 1)
        with raises(TypeError, r"rank 0 used Send\(\): receive that by Recv\(\)"):
            await comm.recv(0, 2)
        with raises(TypeError, r"rank 0 used send\(\): receive that by recv\(\)"):
            await comm.Recv(np.zeros(1), 0, 3)
        assert await comm.recv(0, 4) == "fine"


async def checked_channels(comm):
    """Ranks that are in different operations are told so, all of them."""
    async with Comm(check=True) as checked, checked.dup() as child:
        for channel in (checked, child):
            assert await channel.allreduce(1) == comm.size
            with raises(
                ChannelError, r"rank 0 in bcast\(root=0\), rank 1 in barrier\(\).* in one order on every rank"
            ):
                await (channel.barrier() if comm.rank == 1 else channel.bcast(1))
            with raises(ChannelError, r"rank 2 in Allreduce\(16 bytes\), rank 3 in Allreduce\(8 bytes\)"):
                numbers = np.zeros(1 + (comm.rank == 2))
                await channel.Allreduce(numbers, numbers.copy())
            await channel.barrier()


async def misuse(comm):
    unopened = Comm()
    with raises(ChannelError, "enter it, with async with Comm"):
        await unopened.barrier()
    with raises(ChannelError, "was entered before: make another"):
        await comm.__aenter__()
    with raises(TypeError, "must be an MPI.Intracomm"):
        Comm("world")
    first, second = await asyncio.gather(comm_in_a_task(), comm_in_a_task(), return_exceptions=True)
    assert first is None
    with raises(ChannelError, r"Comm\(\) of task .* began while Comm\(\)"):
        raise second
    await comm.barrier()
    assert "rank" in repr(comm)


async def comm_in_a_task():
    async with Comm():
        pass


async def large_objects(comm):
    """200 MB, out-of-band: to all, and from rank to rank."""
    array = np.arange(25_000_000, dtype="f8") if comm.rank == 1 else None
    got = await comm.bcast(array, 1)
    assert got.nbytes == 200_000_000
    assert (got[::1_000_000] == np.arange(0, 25_000_000, 1_000_000)).all()
    if comm.rank == 1:
        await comm.send({"large": array}, 3)
    if comm.rank == 3:
        assert (await comm.recv(1))["large"][-1] == 24_999_999


SCENARIOS = [
    objects, own_items_are_copies, reductions, messages, buffers, whatever_hypothesis_finds, one_channel_in_two_orders,
    overlapping_messages, cancelled_collective, leaving_waits_for_what_was_cancelled, cancelled_messages,
    the_loop_stays_free, refused_buffers, refused_objects, refused_messages, checked_channels, misuse, large_objects,
]  # fmt: skip


async def main():
    for scenario in [each for each in SCENARIOS if each.__name__ not in sys.argv[2:]]:
        async with Comm() as comm:
            await scenario(comm)
            await comm.barrier()
        assert not of_loop().running, "something is still under way"
        assert of_loop().polling is None, "nothing is under way, but looked for"
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not abandoned
        if MPI.COMM_WORLD.rank == 0:
            print("through", scenario.__name__, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
