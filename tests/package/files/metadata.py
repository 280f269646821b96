"""Plays EC2's metadata service, as far as an instance with these tags needs it."""

import http.server

TAGS = {
    "instance-agent:environment": "production",
    "instance-agent:app:hello": "octocat/hello@main=hello.service",
}
ANSWERS = {
    "/latest/meta-data/instance-id": "i-0123456789abcdef0",
    "/latest/meta-data/tags/instance": "\n".join(TAGS),
}


def answer(path):
    start = "/latest/meta-data/tags/instance/"
    if path.startswith(start):
        return TAGS.get(path.removeprefix(start).replace("%3A", ":"))
    return ANSWERS.get(path)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        self.say(200, "TOKEN", {"X-aws-ec2-metadata-token-ttl-seconds": "21600"})

    def do_GET(self):
        text = answer(self.path)
        if self.headers["X-aws-ec2-metadata-token"] != "TOKEN":
            self.say(401, "")
        elif text is None:
            self.say(404, "")
        else:
            self.say(200, text)

    def say(self, code, text, headers=()):
        self.send_response(code)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        """Nobody reads it."""


http.server.HTTPServer(("169.254.169.254", 80), Handler).serve_forever()
