"""Stands in for Azure's host, which cannot be installed from a registry: HTTP in front of a real ``azure.functions`` app.

    python azure_host.py FOLDER PROCESSES KEY

It does what the host does with an HTTP trigger: it finds the app in ``function_app.py``, serves its function under its
route, asks for the function key, hands over an ``azure.functions.HttpRequest`` and sends the ``HttpResponse``. As Azure's
Python worker does, it runs a synchronous function in a thread, here one at a time in each process. It prints its port,
and ends, with its processes, when standard input is closed.
"""

import importlib
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl, urlsplit

import azure.functions as azure


class Host(HTTPServer):
    """One process: a request at a time, in a thread."""

    def process_request(self, request, client_address):
        thread = threading.Thread(target=self.finish_one, args=(request, client_address))
        thread.start()
        thread.join()

    def finish_one(self, request, client_address):
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client has gone
        finally:
            self.shutdown_request(request)


class Handler(BaseHTTPRequestHandler):
    """Translates between a connection and the trigger."""

    def answer(self):
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        trigger = self.server.trigger
        if parts.path != f"/api/{trigger['route']}" or self.command not in trigger["methods"]:
            self.send(404, {}, b"")
        elif trigger["authLevel"] == "FUNCTION" and self.headers.get("x-functions-key") != self.server.key:
            self.send(401, {}, b"")
        else:
            request = azure.HttpRequest(
                method=self.command, url=f"http://{self.headers['host']}{self.path}", body=body,
                headers={name.lower(): value for name, value in self.headers.items()},
                params=dict(parse_qsl(parts.query)), route_params={},
            )  # fmt: skip
            response = self.server.function(request)
            headers = {"content-type": response.mimetype, **response.headers}
            self.send(response.status_code, headers, response.get_body())

    do_GET = do_POST = answer

    def send(self, status, headers, body):
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main(folder, processes, key):
    sys.path.insert(0, folder)
    [function] = importlib.import_module("function_app").app.get_functions()
    said = json.loads(function.get_function_json())
    [trigger] = [binding for binding in said["bindings"] if binding["type"] == "httpTrigger"]
    host = Host(("127.0.0.1", 0), Handler)
    host.socket.setblocking(True)
    host.function, host.trigger, host.key = function.get_user_function(), trigger, key
    print(host.server_port, flush=True)
    children = [start(host) for _ in range(int(processes))]
    host.server_close()
    sys.stdin.read()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def start(host):
    """A process that serves; what Azure starts another of when one has died is not imitated."""
    pid = os.fork()
    if pid:
        return pid
    try:
        host.serve_forever()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
