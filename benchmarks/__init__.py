"""asyncpar beside its peers: one command, one table.

    python -m benchmarks --help

- `functions`  what the workers run; imports nothing heavy
- `peers`      one small class a library, all with the same methods
- `starting`   the shortest program of each library, for the time to a first result
- `cases`      what is measured, written once for all peers
- `metrics`    which numbers a case gives, their units, and the reach of each
- `meters`     clocks: an ideal pair of cores, memcpy, resident memory, foreign CPU
- `child`      one case on one peer in a fresh process
- `runner`     rounds of such processes, shuffled
- `report`     medians, ratios and the table
"""
