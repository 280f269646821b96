"""Serves the version that the checkout had when this was started."""

import http.server
import pathlib

VERSION = pathlib.Path(__file__).with_name("version").read_bytes()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(VERSION)

    def log_message(self, *_):
        """Nobody reads it."""


http.server.HTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
