#!/usr/bin/env node
// A small login service whose tokens hang on the user's row: when the password or the status changes there,
// the gateway honours them no longer. Node's own modules only.
//
//     login.mjs serve         answers POST /login {"user": …, "password": …} with {"token": …}
//     login.mjs check FILE    compares the formula with the published test vectors
//
// Settings (environment): ISSUER, AUDIENCE, BASE_SECRET_FILE, PORT (0: a free one, printed), and those of psql
// (PGHOST, PGUSER, …), which reads the row here so that no driver is needed: use the one you have.

import { spawn } from "node:child_process";
import { createHmac, hkdfSync, pbkdf2, randomBytes, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { promisify } from "node:util";

const LIFETIME = 15 * 60;

// --- the formula (docs/per-subject-keys.md)

/** Each text behind its length; NULL is a length that no text has. */
function framed(texts) {
  return Buffer.concat(
    texts.flatMap((text) => {
      if (text === null) return [Buffer.alloc(4, 0xff)];
      const raw = Buffer.from(text, "utf8");
      const length = Buffer.alloc(4);
      length.writeUInt32BE(raw.length);
      return [length, raw];
    }),
  );
}

// Node's HKDF takes at most 1024 bytes of info, and columns may be longer: so it is written out (RFC 5869, one block).
function hkdf(secret, salt, info, length) {
  if (info.length <= 1024) return Buffer.from(hkdfSync("sha256", secret, salt, info, length));
  const extracted = createHmac("sha256", salt).update(secret).digest();
  return createHmac("sha256", extracted).update(info).update(Buffer.of(1)).digest().subarray(0, length);
}

function subjectKey(base, issuer, subject, columns) {
  return hkdf(base, "portcullis/t5/1", framed([issuer, subject, ...columns]), 32);
}

/** `cfp`, for tokens that are signed with a key of the issuer's own. */
function fingerprint(base, issuer, subject, columns) {
  return hkdf(base, "portcullis/t5/cfp/1", framed([issuer, subject, ...columns]), 16).toString("base64url");
}

// --- tokens

function sign(claims, key) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${text}.${createHmac("sha256", key).update(text).digest("base64url")}`;
}

// --- users

/** The columns that the gateway's own query asks for, in its order; null when there is no such user. */
function readRow(user) {
  const query = "SELECT json_build_array(password_hash, status) FROM users WHERE id = :'id'";
  const psql = spawn("psql", ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", `id=${user}`], { timeout: 10_000 });
  return new Promise((resolve, reject) => {
    let answer = "";
    psql.stdout.on("data", (piece) => (answer += piece));
    psql.stdin.on("error", () => {});
    psql.on("error", reject);
    psql.on("close", (code) => {
      if (code !== 0) reject(new Error("the user database did not answer"));
      else resolve(answer.trim() === "" ? null : JSON.parse(answer));
    });
    psql.stdin.end(query);
  });
}

const NOBODY = [`pbkdf2-sha256$100000$bm9ib2R5$${Buffer.alloc(32).toString("base64url")}`, "active"];

/** `pbkdf2-sha256$ITERATIONS$SALT$HASH`, the last two base64url. */
async function isPassword(stored, password) {
  const [, iterations, salt, wanted] = stored.split("$");
  const found = await promisify(pbkdf2)(password, Buffer.from(salt, "base64url"), Number(iterations), 32, "sha256");
  return timingSafeEqual(found, Buffer.from(wanted, "base64url"));
}

async function logIn(settings, user, password) {
  const columns = user.includes("\0") ? null : await readRow(user);
  const [stored, status] = columns ?? NOBODY;
  // Nobody's password takes as long as somebody's, and is never right.
  const good = await isPassword(stored ?? NOBODY[0], password);
  if (!good || !columns || !stored || status !== "active") return null;
  const now = Math.floor(Date.now() / 1000);
  const { issuer, audience, base } = settings;
  const jti = randomBytes(16).toString("base64url");
  const claims = { iss: issuer, aud: audience, sub: user, iat: now, exp: now + LIFETIME, jti };
  // The row that the password was checked against makes the key: a change in between makes the token void.
  return sign(claims, subjectKey(base, issuer, user, columns));
}

async function readBody(request) {
  let body = "";
  for await (const piece of request) {
    body += piece;
    if (body.length > 4096) throw new SyntaxError("too long");
  }
  return JSON.parse(body);
}

async function answer(settings, request) {
  let asked;
  try {
    asked = await readBody(request);
  } catch {
    asked = {};
  }
  if (typeof asked?.user !== "string" || typeof asked?.password !== "string") {
    return [400, { error: 'send {"user": …, "password": …}' }];
  }
  try {
    const token = await logIn(settings, asked.user, asked.password);
    return token === null ? [401, { error: "wrong user or password" }] : [200, { token }];
  } catch {
    return [503, { error: "the user database did not answer" }];
  }
}

function serve() {
  const { ISSUER, AUDIENCE, BASE_SECRET_FILE, PORT } = process.env;
  let base = readFileSync(BASE_SECRET_FILE);
  if (base.at(-1) === 0x0a) base = base.subarray(0, -1);
  const settings = { issuer: ISSUER, audience: AUDIENCE, base };
  const server = createServer(async (request, response) => {
    const [status, body] = await answer(settings, request);
    response.writeHead(status, { "Content-Type": "application/json", "Cache-Control": "no-store" });
    response.end(JSON.stringify(body));
  });
  server.listen(Number(PORT ?? 0), "127.0.0.1", () => {
    console.log(JSON.stringify({ listening: server.address().port }));
  });
}

function check(path) {
  const { vectors } = JSON.parse(readFileSync(path, "utf8"));
  for (const it of vectors) {
    const base = Buffer.from(it.base_secret_hex, "hex");
    const key =
      it.derive === "hkdf"
        ? subjectKey(base, it.issuer, it.subject, it.columns)
        : Buffer.concat([base, Buffer.from(it.columns[0], "utf8")]);
    if (key.toString("hex") !== it.key_hex) throw new Error(`${it.name}: another key`);
    const cfp = fingerprint(base, it.issuer, it.subject, it.columns);
    if (cfp !== it.cfp) throw new Error(`${it.name}: another fingerprint`);
  }
  console.log(`${vectors.length} vectors are right`);
}

const [command, file] = process.argv.slice(2);
if (command === "serve") serve();
else if (command === "check" && file) check(file);
else {
  console.error("login.mjs serve | login.mjs check FILE");
  process.exit(64);
}
