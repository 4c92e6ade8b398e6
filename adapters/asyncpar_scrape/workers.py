"""What the processes that parse begin with, once, before they are forked."""

from __future__ import annotations

import webencodings

from asyncpar_scrape import page, selecting

__all__ = ["page", "selecting", "webencodings"]

KEPT_BYTES = 16 << 20
"""Of memory that a page's tree gave back, so much and as much again stays with the process, for the next page's."""

# glibc returns what is free at the end of its heap from 128 KB on, which a page's tree passes each time, and has the kernel
# hand out the same memory anew. It raises that bound by itself, to twice the largest block that a program gave back
# (mallopt(3), M_MMAP_THRESHOLD). This one is never written to, and takes no memory.
bytes(KEPT_BYTES)
