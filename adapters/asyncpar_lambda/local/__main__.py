"""``python -m asyncpar_lambda.local``: the server process that ``LocalLambda`` starts."""

from __future__ import annotations

from asyncpar_lambda.local.server import main

if __name__ == "__main__":
    main()
