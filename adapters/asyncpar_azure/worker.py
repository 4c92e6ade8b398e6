"""The far side: the worker as an HTTP-triggered function of Azure Functions.

The trigger is synchronous: Azure's Python worker runs such functions in threads, and its loop, which talks to the host,
stays free. No signal reaches a thread, so a call that is not a coroutine function cannot be stopped there.
"""

from __future__ import annotations

from pathlib import Path

import azure.functions as azure

from asyncpar_http.worker import Endpoint


def make_app(file: str) -> azure.FunctionApp:
    """The app that Azure's host looks for; ``file`` is that beside which its settings lie."""
    endpoint = Endpoint(Path(file).parent)
    app = azure.FunctionApp(http_auth_level=azure.AuthLevel.FUNCTION)

    @app.function_name("asyncpar")
    @app.route(route="asyncpar", methods=[azure.HttpMethod.GET, azure.HttpMethod.POST])
    def asyncpar(req: azure.HttpRequest) -> azure.HttpResponse:
        body = req.get_body()
        answer = endpoint.answer(req.method, len(body), lambda: body)
        return azure.HttpResponse(answer, mimetype="application/json")

    return app
