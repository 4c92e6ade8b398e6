"""What loop and worker agree on: frames, control words, flags. No I/O, no imports but struct.

A frame is a header and its payload; many calls travel in one. Towards the worker:

=========  =======================================================  ==================
kind       payload                                                  header fields
=========  =======================================================  ==================
FUNCTION   pickled function                                         aux: its number
CALLS      pickled list: number, flags, arguments                   count; flags: TIMED
MAP        pickled list of plain items                              count; aux: number
SHARE      pickled constant                                         aux: its number
FORGET     numbers of functions (flags 0) or constants (flags 1)    count
FREE       offsets of slabs of the worker's that nobody reads now   count
=========  =======================================================  ==================

and towards the loop, always in the order of the calls:

=========  =======================================================  ==================
RESULTS    per call a size, then their values                       count; aux: us
VALUES     pickled list of plain values                             count; aux: us
STOPPED    nothing: these calls were cancelled                      count
RETURNED   nothing: the rest of the chunk was recalled, never begun count
HELD       offsets of arguments' slabs that the function kept       count
RELEASED   offsets of slabs that it has let go since                count
LOG        pickled logging record or warning
READY      nothing, or the pickled error of the initializer
=========  =======================================================  ==================

Calls share nothing: what one does to its arguments, or to what it returned, no other sees. Only items
and values that cannot be changed, *plain* ones, share a pickle.

Each worker has a block of shared memory: control words, and the outcomes that it has not
sent yet, so that a call's result survives the worker's death in a later call.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("<IBBHI")  # payload bytes, kind, flags, count, aux
FUNCTION, CALLS, MAP, SHARE, FORGET, FREE = range(6)
RESULTS, VALUES, STOPPED, RETURNED, HELD, RELEASED, LOG, READY = range(8, 16)

NOTHING = 0  # number of the function that stands for a call whose arguments cannot be sent
PLAIN = frozenset((int, float, complex, str, bytes, bool, type(None)))

# Flags of a header.
TIMED = 1  # note when each call starts
PARCEL = 2  # the payload, or one of its values, names slabs of shared memory
STAR = 4  # MAP: items are argument tuples

# Flags of a call, or in the upper bits of an outcome's size.
SIZE = 0x1FFF_FFFF
SLABS = 0x8000_0000  # names slabs of shared memory
KEYWORDS = 0x4000_0000  # (args, kwargs), not args alone
ERROR = 0x2000_0000  # an error, not a value
INLINE = 0x1000_0000  # arguments that are plain, all of them: not pickled once more

# Control words of a worker's block, 8 bytes each.
WRITTEN = 0  # bytes that the loop has written so far: a hint for the worker's spin
SEQ = 1  # the call that runs, if BUSY; else the next one
BUSY = 2  # 1 while a chunk runs
LOGGED = 3  # the first call whose outcome is in the log
SINCE = 4  # monotonic nanoseconds at which the running call began (TIMED chunks only)
CANCELS = 5  # how many cancelled ranges were written so far
MODE = 6  # how the log is written: PICKLED, or bare numbers
RECALL = 7  # the loop wants back what has not begun of the calls before this one ...
KEPT = 8  # ... and the worker begins none of them from the one before this on; 0: it has not answered
RANGES = 10  # a ring of RING pairs: first and last cancelled call
RING = 1024  # more than a worker has calls that can be cancelled one by one
WORDS = RANGES + 2 * RING

PICKLED, INTEGERS, FLOATS = range(3)

BLOCK = 1 << 17  # bytes of a worker's block
LOG_AT = 8 * WORDS
LOG_SIZE = BLOCK - LOG_AT

OUT_OF_BAND = 1 << 16  # buffers of 64 KiB and more travel through shared memory
FRAME_SECONDS = 1e-3  # a worker keeps outcomes back for at most this long
"""Frames of about 1 ms make the cost of a pipe write and a wake-up (about 50 us) small."""
