#!/usr/bin/env python3
"""A small login service whose tokens hang on the user's row: when the password or the status changes there,
the gateway honours them no longer. Standard library only.

    login.py serve         answers POST /login {"user": …, "password": …} with {"token": …}
    login.py check FILE    compares the formula with the published test vectors

Settings (environment): ISSUER, AUDIENCE, BASE_SECRET_FILE, PORT (0: a free one, printed), and those of psql
(PGHOST, PGUSER, …), which reads the row here so that no driver is needed: use the one you have.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIFETIME = 15 * 60


# --- the formula (docs/per-subject-keys.md)

def framed(texts):
    """Each text behind its length; NULL (None) is a length that no text has."""
    out = b""
    for text in texts:
        if text is None:
            out += b"\xff\xff\xff\xff"
        else:
            raw = text.encode("utf-8")
            out += len(raw).to_bytes(4, "big") + raw
    return out


def hkdf(secret, salt, info, length):
    """HKDF-SHA256 (RFC 5869) for at most one block, which is all that is needed."""
    extracted = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()[:length]


def subject_key(base, issuer, subject, columns):
    return hkdf(base, b"portcullis/t5/1", framed([issuer, subject, *columns]), 32)


def fingerprint(base, issuer, subject, columns):
    """`cfp`, for tokens that are signed with a key of the issuer's own."""
    return base64url(hkdf(base, b"portcullis/t5/cfp/1", framed([issuer, subject, *columns]), 16))


# --- tokens

def base64url(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def sign(claims, key):
    part = lambda value: base64url(json.dumps(value, separators=(",", ":")).encode("utf-8"))
    text = part({"alg": "HS256", "typ": "JWT"}) + "." + part(claims)
    return text + "." + base64url(hmac.new(key, text.encode("ascii"), hashlib.sha256).digest())


# --- users

def read_row(user):
    """The columns that the gateway's own query asks for, in its order; None when there is no such user."""
    query = "SELECT json_build_array(password_hash, status) FROM users WHERE id = :'id'"
    psql = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "id=" + user]
    answer = subprocess.run(psql, input=query, capture_output=True, text=True, check=True, timeout=10)
    return json.loads(answer.stdout) if answer.stdout.strip() else None


NOBODY = ["pbkdf2-sha256$100000$bm9ib2R5$" + base64url(bytes(32)), "active"]


def is_password(stored, password):
    """`pbkdf2-sha256$ITERATIONS$SALT$HASH`, the last two base64url."""
    _, iterations, salt, wanted = stored.split("$")
    unpadded = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    found = hashlib.pbkdf2_hmac("sha256", password.encode("utf-8"), unpadded(salt), int(iterations), 32)
    return hmac.compare_digest(found, unpadded(wanted))


def log_in(settings, user, password):
    columns = read_row(user) if "\0" not in user else None
    stored, status = columns or NOBODY
    # Nobody's password takes as long as somebody's, and is never right.
    good = is_password(stored or NOBODY[0], password)
    if not (good and columns and stored and status == "active"):
        return None
    now = int(time.time())
    claims = {"iss": settings["issuer"], "aud": settings["audience"], "sub": user, "iat": now, "exp": now + LIFETIME,
              "jti": secrets.token_urlsafe(16)}
    # The row that the password was checked against makes the key: a change in between makes the token void.
    return sign(claims, subject_key(settings["base"], settings["issuer"], user, columns))


class Login(BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            length = min(int(self.headers.get("Content-Length", 0)), 4096)
            asked = json.loads(self.rfile.read(length))
            token = log_in(self.server.settings, str(asked["user"]), str(asked["password"]))
        except (ValueError, KeyError, TypeError):
            return self.answer(400, {"error": "send {\"user\": …, \"password\": …}"})
        except (subprocess.SubprocessError, OSError):
            return self.answer(503, {"error": "the user database did not answer"})
        if token is None:
            return self.answer(401, {"error": "wrong user or password"})
        self.answer(200, {"token": token})

    def answer(self, status, body):
        raw = json.dumps(body).encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


def serve():
    with open(os.environ["BASE_SECRET_FILE"], "rb") as file:
        base = file.read().removesuffix(b"\n")
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "0"))), Login)
    server.settings = {"issuer": os.environ["ISSUER"], "audience": os.environ["AUDIENCE"], "base": base}
    print(json.dumps({"listening": server.server_port}), flush=True)
    server.serve_forever()


def check(path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)["vectors"]
    for it in vectors:
        base, columns = bytes.fromhex(it["base_secret_hex"]), it["columns"]
        if it["derive"] == "hkdf":
            key = subject_key(base, it["issuer"], it["subject"], columns)
        else:
            key = base + columns[0].encode("utf-8")
        found = (key.hex(), fingerprint(base, it["issuer"], it["subject"], columns))
        assert found == (it["key_hex"], it["cfp"]), it["name"]
    print(f"{len(vectors)} vectors are right")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    elif sys.argv[1:2] == ["check"] and len(sys.argv) == 3:
        check(sys.argv[2])
    else:
        sys.exit(__doc__)
