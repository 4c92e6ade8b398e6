"""``asyncpar lambda``: what it takes is in ``app``, what it does in ``deploying`` and ``calling``, loaded when asked for."""
