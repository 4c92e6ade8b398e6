"""A Lambda on this machine: AWS's API in front, AWS's own runtime client in every environment behind it.

``http``         HTTP/1.1, as much as is needed
``environment``  one process that runs ``awslambdaric``, and the Runtime API that it talks to
``functions``    deployed functions, their versions and environments, and what throttles them
``faults``       what can be made to go wrong
``invoke``       Invoke
``store``        the slice of S3;  ``control``  the slice of the control plane
``server``       the process;  ``client``  ``LocalLambda``, which starts it
"""

from __future__ import annotations

from asyncpar_lambda.local.client import LocalLambda as LocalLambda
from asyncpar_lambda.local.faults import Faults as Faults
