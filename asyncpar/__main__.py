"""`python -m asyncpar` is the same as `asyncpar`."""

from asyncpar.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
