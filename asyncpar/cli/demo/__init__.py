"""`asyncpar demo`: fetch, parse and count Python's own sources, measured beside doing the same one by one.

`counting`    what the workers do: plain functions
`sources`     which files
`server`      a web server of those files, a process of its own;  `serving`  starts and ends it
`stages`      the job, with asyncpar and one by one: the code to read first
`meters`      the loop's lag, and memory
`command`     the command: checks, runs, prints
"""
