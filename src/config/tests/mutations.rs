//! One good file, and what one slip of the pen does to it.

use super::*;

/// A configuration that uses nearly everything.
pub(super) const GOOD: &str = r#"workers: 2
listeners:
  - address: 127.0.0.1:8080
  - address: "[::1]:8081"
admin:
  address: 127.0.0.1:9901
  tokens:
    - name: ops
      role: operator
      secret: { file: secrets/ops }
    - name: dashboard
      role: viewer
      secret: { env: PORTCULLIS_DASHBOARD_TOKEN }
  audit_log: { file: audit.log }
issuers:
  accounts:
    issuer: https://accounts.example.com/
    audiences: [shop]
    algorithms: [ES256]
    types: [JWT]
    keys: { public_key_file: accounts.pem }
    clock_skew: 5s
    max_lifetime: 24h
    require: [exp, iat, sub]
    max_authentication_age: 8h
  partners:
    issuer: https://partners.example.net/
    audiences: [shop]
    algorithms: [RS256, PS256]
    keys: { jwks_file: partners.json }
  legacy:
    issuer: legacy
    audiences: [shop]
    algorithms: [HS256]
    keys: { secret: { file: secrets/legacy } }
token:
  from: [{ header: Authorization }, { cookie: __Host-session }]
  max_bytes: 8KiB
  realm: shop
upstreams:
  shop:
    servers: [http://127.0.0.1:3000, http://127.0.0.1:3001]
    connect_timeout: 5s
    health: { path: /healthz, expect: 200-399, host: shop.internal }
    ejection: { after: none, time: 10s }
    retries: { on: [gateway_errors, timeout], budget: 10% }
  files:
    servers: ["http://[::1]:4000"]
routes:
  - name: sign-in
    match: { host: shop.example.com, path: /sign-in, methods: [GET, POST] }
    upstream: shop
    auth: none
    login: true
  - match: { hosts: [shop.example.com, "*.example.org"], pattern: "/files/{id}/{*rest}" }
    upstream: files
    auth:
      issuers: [accounts, session]
      scopes: { all: [files], any: [read, write] }
      claims: { tenant: { equals: blue }, plan: { in: [team, 7] }, groups: { contains: staff }, mail: { pattern: ".+@x" } }
      max_age: 1h
      acr: [phr, mfa]
    claims_to_headers: { preset: kong, headers: { X-Tenant: tenant } }
    max_body: 100MB
    timeout: 30s
    report_only: true
  - match: { path: / }
    upstream: shop
    forward_token: true
claims_to_headers: { headers: { X-Auth-Request-User: preferred_username, X-Department: address.department } }
session:
  issuer: https://gate.example.com/
  audience: shop
  keys: { dir: keys, algorithm: ES384 }
  idle_timeout: 15m
  absolute_timeout: 12h
  reissue: { after: 33.3%, every: 100 }
  exchange:
    - { issuer: accounts, subject_prefix: "acc:" }
    - { issuer: partners, subject_prefix: "par:" }
  grants: { subject_prefix: "own:" }
  delivery: cookie
  cookie: { name: __Host-session }
revocation:
  store: { path: data }
  sweep_interval: 60s
trusted_proxies: [10.0.0.0/8, 192.0.2.7, "fd00::/8"]
limits: { header_bytes: 32KiB, header_count: 100 }
shutdown: { drain_delay: 5s, drain_timeout: 1m 30s }
access_log: off
"#;

/// What is changed, into what (`^` stands before the place that is to be reported), and what is said.
const SLIPS: &[(&str, &str, &str)] = &[
    // the shape of the file
    ("workers: 2", "^workesr: 2", "did you mean `workers`?"),
    ("workers: 2", "^zebra: 2", "unknown key `zebra`"),
    ("workers: 2", "workers: 2\n^workers: 3", "duplicate key `workers`"),
    ("workers: 2", "workers: ^lots", "`workers` cannot be `lots`"),
    ("workers: 2", "workers: ^0", "at least 1"),
    ("workers: 2", "workers: ^1.5", "must be `auto` or a whole number"),
    ("workers: 2", "^cluster: { redis: { url: 'redis://127.0.0.1' } }", "`cluster` lacks the key `secret`"),
    ("    issuer: legacy", "    issuer: legacy\n    ^audience: [x]", "did you mean `audiences`?"),
    (
        "audiences: [shop]\n    algorithms: [ES256]",
        "algorithms: [ES256]",
        "`issuers.accounts` lacks the key `audiences`",
    ),
    ("issuer: legacy", "issuer: ^null", "`issuers.legacy.issuer` has no value"),
    ("issuer: legacy", "issuer: ^~", "has no value"),
    ("issuer: legacy", "^issuer:", "to get the default, leave the key out"),
    ("issuer: legacy", "issuer: ^\"\"", "`issuers.legacy.issuer` is empty"),
    ("issuer: legacy", "issuer: ^42", "write \"42\""),
    ("issuer: legacy", "issuer: ^true", "write \"true\""),
    ("issuer: legacy", "issuer: ^!env LEGACY", "tags are not supported"),
    ("issuer: legacy", "issuer: ^&legacy legacy", "anchors are not supported"),
    ("issuer: legacy", "issuer: ^*legacy", "aliases are not supported"),
    ("issuer: legacy", "^<<: { issuer: legacy }\n    issuer: legacy", "merge keys are not supported"),
    ("access_log: off", "access_log: off\n^---\nworkers: 3", "a second document"),
    ("access_log: off", "access_log: ^on", "`access_log` cannot be `on`"),
    ("access_log: off", "access_log: ^[stdout]", "must be `stdout`, `off` or a mapping"),
    ("login: true", "login: ^yes", "write `true`"),
    ("login: true", "login: ^\"no\"", "write `false`"),
    ("login: true", "login: true\n    logout: ^true", "a route is for logins or for logouts"),
    ("delivery: cookie", "delivery: cookie\n  max_per_subject: ^0", "at least 1"),
    ("delivery: cookie", "delivery: cookie\n  max_per_subject: ^all", "`session.max_per_subject` cannot be `all`"),
    ("delivery: cookie", "delivery: cookie\n  devices: { max: ^10 }", "at least 1000"),
    ("delivery: cookie", "delivery: cookie\n  devices: { ^agent: true }", "the keys here are max, address, user_agent"),
    ("role: viewer", "role: ^admin", "one of viewer, operator"),
    ("role: viewer", "role: ^viewr", "did you mean `viewer`?"),
    ("header_count: 100", "header_count: ^\"100\"", "leave out the quotes"),
    ("header_count: 100", "header_count: ^5000", "at most 1000"),
    ("header_count: 100", "header_count: ^-1", "at least 8"),
    ("types: [JWT]", "types: ^JWT", "write `[JWT]`"),
    ("types: [JWT]", "types: [JWT, ^{ a: b }]", "must be text"),
    ("  - address: 127.0.0.1:8080", "  - address: ^127.0.0.1", "write `127.0.0.1:8080`"),
    // units
    ("clock_skew: 5s", "clock_skew: ^5", "a bare number has no unit: write `5s`"),
    ("clock_skew: 5s", "clock_skew: ^\"5\"", "write `5s`"),
    ("clock_skew: 5s", "clock_skew: ^-5s", "cannot be negative"),
    ("clock_skew: 5s", "clock_skew: ^5 fortnights", "write a number and a unit"),
    ("clock_skew: 5s", "clock_skew: ^6m", "at most 5m"),
    ("max_lifetime: 24h", "max_lifetime: ^1d", "write `24h`"),
    ("max_lifetime: 24h", "max_lifetime: ^0s", "at least 1s"),
    ("max_lifetime: 24h", "max_lifetime: ^90000h", "at most 87600h"),
    ("max_lifetime: 24h", "max_lifetime: ^5s", "must be longer than the clock skew"),
    ("max_lifetime: 24h", "max_lifetime: ^none", "is not a time span"),
    ("max_bytes: 8KiB", "max_bytes: 8KiB\n  dpop: { algorithms: [ES256, ^HS256] }", "`HS256` proves nothing"),
    ("max_bytes: 8KiB", "max_bytes: 8KiB\n  dpop: { ^algorithms: [] }", "`token.dpop.algorithms` is empty"),
    ("max_bytes: 8KiB", "max_bytes: 8KiB\n  dpop: { proof_max_age: ^1h }", "at most 10m"),
    ("max_bytes: 8KiB", "max_bytes: 8KiB\n  dpop: { clock_skew: ^6m }", "at most 5m"),
    ("max_bytes: 8KiB", "max_bytes: 8KiB\n  dpop: { max_proofs: ^10 }", "at least 1000"),
    ("acr: [phr, mfa]", "acr: [phr, mfa]\n      sender_constrained: ^pop", "one of none, dpop, mtls, any"),
    ("max_bytes: 8KiB", "max_bytes: ^8k", "write `8KiB` or `8KB`"),
    ("max_bytes: 8KiB", "max_bytes: ^8KiBs", "is not a size"),
    ("max_bytes: 8KiB", "max_bytes: ^10", "at least 256 bytes"),
    ("max_bytes: 8KiB", "max_bytes: ^40KiB", "no request head could hold such a token"),
    ("header_bytes: 32KiB", "header_bytes: ^1KiB", "at least 8192 bytes"),
    ("header_bytes: 32KiB", "header_bytes: 32KiB, uri_bytes: ^64KiB", "no request head could hold such a target"),
    ("after: 33.3%", "after: ^0%", "from 1% to 99%"),
    ("after: 33.3%", "after: ^100%", "from 1% to 99%"),
    ("after: 33.3%", "after: ^half", "is not a share"),
    ("every: 100", "every: ^1", "at least 2"),
    // listeners, admin, secrets
    ("127.0.0.1:8080", "127.0.0.1:8080\n    ^tls: { key: secrets/ops }", "`certificate` is missing"),
    ("127.0.0.1:8080", "127.0.0.1:8080\n    ^tls: { certificate: accounts.pem }", "`key` is missing"),
    ("127.0.0.1:8080", "127.0.0.1:8080\n    ^tls: { strict_sni: true }", "`listeners[0].tls` has no certificate"),
    ("127.0.0.1:8080", "127.0.0.1:8080\n    tls: { ^certificates: [] }", "at least one is needed"),
    (
        "127.0.0.1:8080",
        "127.0.0.1:8080\n    tls: { certificate: accounts.pem, key: secrets/ops, min_version: ^1.3 }",
        "write \"1.3\"",
    ),
    (
        "127.0.0.1:8080",
        "127.0.0.1:8080\n    tls: { certificates: [{ certificate: accounts.pem, key: secrets/ops, \
         names: [a.b, ^10.0.0.1] }] }",
        "is not a server name",
    ),
    ("127.0.0.1:8080", "127.0.0.1:8080\n    tls: { certificate: ^none.pem, key: secrets/ops }", "cannot read"),
    (
        "127.0.0.1:8080",
        "127.0.0.1:8080\n    tls: { certificate: accounts.pem, key: ^secrets/wide }",
        "every user of this machine may change this secret",
    ),
    (
        "127.0.0.1:8080",
        "127.0.0.1:8080\n    tls: { certificate: accounts.pem, ^key: \"-----BEGIN PRIVATE KEY-----hunter2\" }",
        "is written into the file",
    ),
    (
        "127.0.0.1:8080",
        "127.0.0.1:8080\n    tls: { certificate: accounts.pem, key: secrets/ops, ^client_auth: required }",
        "add `client_ca`",
    ),
    (
        "127.0.0.1:8080",
        "127.0.0.1:8080\n    tls: { certificate: accounts.pem, key: secrets/ops, client_ca: ^secrets/ops }",
        "no PEM certificate that can be used as an authority",
    ),
    ("header_count: 100", "header_count: 100, handshakes_per_worker: ^0", "at least 1"),
    ("127.0.0.1:8080", "^localhost:8080", "write `127.0.0.1:8080`"),
    ("127.0.0.1:8080", "\"^:8080\"", "write `0.0.0.0:8080`"),
    ("\"[::1]:8081\"", "\"^::1\"", "write `[::1]:8080`"),
    ("\"[::1]:8081\"", "^127.0.0.1:8080", "is listened on twice"),
    ("127.0.0.1:9901", "^127.0.0.1:8080", "the control plane has the address of a traffic listener"),
    ("127.0.0.1:9901", "\"^unix:\"", "is not the address of a Unix socket"),
    ("name: dashboard", "name: ^ops", "two admin tokens are named `ops`"),
    ("name: dashboard", "name: ^dash board", "cannot be the name of an admin token"),
    ("{ env: PORTCULLIS_DASHBOARD_TOKEN }", "{ env: ^NOWHERE }", "the environment has no variable `NOWHERE`"),
    ("secret: { env: PORTCULLIS_DASHBOARD_TOKEN }", "^secret: { env: A, file: b }", "exactly one of `file`, `env`"),
    ("secret: { env: PORTCULLIS_DASHBOARD_TOKEN }", "^secret: {}", "exactly one of `file`, `env`"),
    (
        "secret: { env: PORTCULLIS_DASHBOARD_TOKEN }",
        "^secret: { file: secrets/copy }",
        "two admin tokens have one secret",
    ),
    ("{ file: secrets/ops }", "{ file: ^secrets/none }", "cannot read"),
    ("{ file: secrets/ops }", "{ file: ^secrets }", "is not a file"),
    ("{ file: secrets/ops }", "{ file: ^secrets/short }", "31 bytes, and at least 32 are needed"),
    ("{ file: secrets/ops }", "{ file: ^secrets/sample }", "a well-known sample"),
    ("{ file: secrets/ops }", "{ file: ^secrets/wide }", "every user of this machine may change this secret"),
    ("{ file: secrets/ops }", "^\"hunter2, and something to make it long enough\"", "is written into the file"),
    ("{ file: secrets/ops }", "{ ^value: hunter2 }", "unknown key `value` in `admin.tokens[0].secret`"),
    ("role: operator", "role: operator\n      ^password: hunter2", "unknown key `password`"),
    ("keys: { jwks_file: partners.json }", "keys: ^hunter2", "is written into the file"),
    ("{ file: secrets/ops }", "^[hunter2, { a: hunter2 }]", "is written into the file"),
    // issuers
    ("issuer: legacy", "issuer: ^partners", "`partners` is the name of another issuer"),
    ("issuer: legacy", "issuer: ^session", "`session` is the name of another issuer"),
    ("https://gate.example.com/", "^partners", "`partners` is the name of another issuer"),
    ("  legacy:\n", "  ^session:\n", "`session` is the name of the gateway itself"),
    ("  legacy:\n", "  ^\"le gacy\":\n", "cannot be the name of an issuer"),
    ("issuer: legacy", "issuer: ^https://accounts.example.com/", "two issuers are"),
    ("issuer: legacy", "issuer: ^\"legacy \"", "characters that cannot be meant"),
    ("algorithms: [ES256]", "^algorithms: []", "`issuers.accounts.algorithms` is empty"),
    ("algorithms: [ES256]", "algorithms: [^none]", "cannot be `none`"),
    ("algorithms: [ES256]", "algorithms: [^es256]", "did you mean `ES256`?"),
    ("algorithms: [ES256]", "algorithms: [ES256, ^HS256]", "`HS256` stands beside `ES256`"),
    ("algorithms: [ES256]", "algorithms: ^ES256", "write `[ES256]`"),
    ("algorithms: [HS256]", "algorithms: [HS256, ^RS256]", "use two issuers"),
    ("{ public_key_file: accounts.pem }", "{ jwks_url: ^http://a.example/k }", "write `https://`"),
    ("{ public_key_file: accounts.pem }", "{ discovery: ^http://a.example }", "`allow_http: true` says that nobody is"),
    ("{ public_key_file: accounts.pem }", "{ jwks_url: ^a.example/k }", "is not a URL to fetch from"),
    ("{ public_key_file: accounts.pem }", "{ jwks_url: ^https://u:p@a.example/k }", "a user and a password cannot be"),
    ("{ public_key_file: accounts.pem }", "{ jwks_url: ^\"https://a.example/k#f\" }", "a fragment"),
    ("{ public_key_file: accounts.pem }", "{ jwks_url: ^file:///k }", "is not a URL to fetch from"),
    (
        "keys: { public_key_file: accounts.pem }",
        "^keys: { jwks_url: https://a.example/k, discovery: https://a.example }",
        "must be one source",
    ),
    (
        "keys: { public_key_file: accounts.pem }",
        "^keys: { jwks_url: https://a.example/k, public_key_file: accounts.pem }",
        "must be one source",
    ),
    (
        "{ public_key_file: accounts.pem }",
        "{ public_key_file: accounts.pem, ^ca_file: accounts.pem }",
        "for `jwks_url` and `discovery`",
    ),
    (
        "{ public_key_file: accounts.pem }",
        "{ public_key_file: accounts.pem, ^allow_http: true }",
        "for `jwks_url` and `discovery`",
    ),
    (
        "{ public_key_file: accounts.pem }",
        "{ jwks_url: https://a.example/k, ca_file: ^noise }",
        "no certificate authorities",
    ),
    (
        "{ public_key_file: accounts.pem }",
        "{ jwks_url: https://a.example/k, refresh: ^10ms }",
        "`issuers.accounts.keys.refresh` is too short",
    ),
    (
        "{ public_key_file: accounts.pem }",
        "{ jwks_url: https://a.example/k, refresh: 10s, cooldown: ^11s }",
        "does not fit `refresh`",
    ),
    (
        "{ public_key_file: accounts.pem }",
        "{ jwks_url: https://a.example/k, max_stale: ^4m }",
        "the keys would lapse between two fetches",
    ),
    ("{ public_key_file: accounts.pem }", "{ jwks_url: https://a.example/k, timeout: ^2m }", "is too long"),
    (
        "algorithms: [HS256]\n    keys: { secret: { file: secrets/legacy } }",
        "algorithms: [HS256]\n    keys: { ^jwks_url: https://a.example/k }",
        "HS* algorithms need a secret",
    ),
    (
        "keys: { public_key_file: accounts.pem }",
        "^keys: {}",
        "exactly one of `secret`, `public_key_file`, `jwks_file`, `jwks_url`, `discovery`, `per_subject`",
    ),
    ("public_key_file: accounts.pem", "public_key_file: ^private.pem", "holds a private key"),
    ("public_key_file: accounts.pem", "public_key_file: ^noise", "holds no PEM block"),
    (
        "public_key_file: accounts.pem",
        "^secret: { file: secrets/accounts }",
        "a secret cannot verify public-key signatures",
    ),
    ("jwks_file: partners.json", "jwks_file: ^noise", "is not a key set"),
    ("secret: { file: secrets/legacy }", "^jwks_file: partners.json", "HS* algorithms need a secret"),
    (
        "algorithms: [HS256]\n    keys: { secret: { file: secrets/legacy } }",
        "algorithms: [HS512]\n    keys: { secret: { file: ^secrets/legacy } }",
        "at least 64 are needed",
    ),
    // tokens
    (
        "{ cookie: __Host-session }]",
        "{ cookie: __Host-session }, ^{ header: authorization }]",
        "repeats an earlier place",
    ),
    ("{ header: Authorization }", "{ header: ^Connection }", "`connection` cannot hold a token"),
    ("{ header: Authorization }", "{ header: ^\"a b\" }", "is not a header name"),
    ("{ header: Authorization }", "^{ header: A, cookie: b }", "exactly one of `header`, `cookie`"),
    ("realm: shop", "realm: ^'a \"shop\"'", "cannot stand in a challenge"),
    // upstreams
    ("connect_timeout: 5s", "protocol: ^h2", "one of http1, http2, auto"),
    ("connect_timeout: 5s", "max_age: ^500ms", "at least 1s"),
    ("connect_timeout: 5s", "^tls: { server_name: a.example }", "is for nobody"),
    (
        "http://127.0.0.1:3001]\n    connect_timeout: 5s",
        "https://127.0.0.1]\n    ^tls: { certificate: noise }",
        "`certificate` and `key` go together",
    ),
    ("http://127.0.0.1:3001", "^127.0.0.1:3001", "write `http://127.0.0.1:3001`"),
    ("http://127.0.0.1:3001", "^http://127.0.0.1:3001/api", "the path comes from the request"),
    ("http://127.0.0.1:3001", "^http://127.0.0.1:3001?x", "the path comes from the request"),
    ("http://127.0.0.1:3001", "^http://user:hunter2@127.0.0.1:3001", "a user and a password"),
    ("http://127.0.0.1:3001", "^http://127.0.0.1:0", "a number from 1 to 65535"),
    ("http://127.0.0.1:3001", "^ftp://127.0.0.1", "the scheme must be `http` or `https`"),
    ("http://127.0.0.1:3001", "^http://127.0.0.1:3000", "is named twice"),
    // routes
    ("http://127.0.0.1:3001]", "{ url: http://127.0.0.1:3001, weight: ^0 }]", "at least 1"),
    ("http://127.0.0.1:3001]", "{ url: ^http://127.0.0.1:3000, weight: 2 }]", "is named twice"),
    ("http://127.0.0.1:3001]", "^{ weight: 2 }]", "lacks the key `url`"),
    ("path: /healthz", "path: ^healthz", "such as `/healthz`"),
    ("path: /healthz", "path: ^/heal thz", "such as `/healthz`"),
    ("path: /healthz", "path: '^/healthz#x'", "such as `/healthz`"),
    ("health: { path: /healthz, ", "^health: { ", "lacks the key `path`"),
    ("expect: 200-399", "expect: ^399-200", "such as `200-299`"),
    ("expect: 200-399", "expect: ^2xx", "such as `200-299`"),
    ("expect: 200-399", "expect: ^101-199", "from 200 to 599"),
    ("expect: 200-399", "expect: ^200", "write \"200\""),
    ("host: shop.internal", "host: ^me@shop.internal", "such as `shop.internal`"),
    ("host: shop.internal", "host: ^http://shop", "such as `shop.internal`"),
    ("after: none, time: 10s", "after: ^never", "`upstreams.shop.ejection.after` cannot be `never`"),
    ("after: none, time: 10s", "time: 10m, max_time: ^5m", "is shorter than `time`"),
    ("after: none, time: 10s", "max_ejected: ^100%", "from 1% to 99%"),
    ("on: [gateway_errors", "on: [^gateway_error", "did you mean `gateway_errors`?"),
    ("on: [gateway_errors", "attempts: ^11, on: [gateway_errors", "at most 10"),
    ("budget: 10%", "budget: ^10", "write \"10\""),
    ("upstream: files", "upstream: ^fils", "did you mean `files`?"),
    ("issuers: [accounts, session]", "issuers: [^acounts, session]", "did you mean `accounts`?"),
    ("auth: none", "auth: ^nobody", "one of none, required"),
    ("pattern: \"/files/{id}/{*rest}\"", "path: ^\"/files/{id}\"", "use `pattern`"),
    ("pattern: \"/files/{id}/{*rest}\"", "path: ^\"/files/../x\"", "resolved before matching"),
    ("pattern: \"/files/{id}/{*rest}\"", "pattern: ^\"/{*rest}/x\"", "must be last"),
    ("methods: [GET, POST]", "methods: [^get, POST]", "did you mean `GET`?"),
    ("methods: [GET, POST]", "methods: [^CONNECT]", "never forwarded"),
    ("host: shop.example.com", "host: ^shop.example.com:443", "without the port"),
    ("host: shop.example.com", "host: ^https://shop.example.com", "no scheme and no path"),
    ("scopes: { all: [files]", "scopes: { all: [^\"a b\"]", "is not a scope"),
    (
        "tenant: { equals: blue }",
        "^tenant: { equals: blue, in: [red] }",
        "exactly one of `equals`, `in`, `contains`, `pattern`",
    ),
    ("pattern: \".+@x\"", "pattern: ^\".+@(x\"", "unclosed group"),
    ("pattern: \".+@x\"", "pattern: ^\"a)|(b\"", "unopened group"),
    ("max_age: 1h", "max_age: ^3600", "write `3600s`"),
    ("max_age: 1h", "max_age: ^0s", "at least 1s"),
    ("acr: [phr, mfa]", "acr: [^phr mfa]", "one value an item, of visible ASCII characters"),
    ("acr: [phr, mfa]", "acr: ^mfa", "write `[mfa]`"),
    ("    auth: none\n    login: true", "    auth: none\n    report_only: ^true", "`auth: none` refuses nobody"),
    (
        "    auth: none\n    login: true",
        "    report_only: ^true\n    login: true",
        "what is only reported must not open sessions",
    ),
    ("report_only: true", "report_only: ^yes", "write `true`"),
    ("tenant: { equals: blue }", "tenant: { equals: ^null }", "has no value"),
    ("X-Tenant: tenant", "^Host: tenant", "`Host` cannot hold an identity"),
    ("X-Tenant: tenant", "X-Tenant: tenant, ^x_tenant: tenant", "`x_tenant` is set twice"),
    ("preset: kong", "preset: ^king", "did you mean `kong`?"),
    ("preset: kong", "preset: kong, account: ^Host", "`Host` cannot hold an identity"),
    ("preset: kong", "preset: kong, account: ^x_tenant", "`x_tenant` is set twice"),
    ("preset: kong", "preset: kong, account: ^a b", "`a b` is not a header name"),
    // sessions
    ("https://gate.example.com/", "^https://accounts.example.com/", "the gateway cannot share its issuer name"),
    ("idle_timeout: 15m", "idle_timeout: ^13h", "is longer than `absolute_timeout`"),
    ("algorithm: ES384", "algorithm: ^HS256", "gateway keys are published"),
    ("{ issuer: partners, subject_prefix: \"par:\" }", "^partners", "subjects of `partners` could be taken for others"),
    ("\"par:\"", "\"acc:x\"", "`acc:x` and `acc:` begin alike"),
    ("issuer: partners, ", "issuer: ^partner, ", "did you mean `partners`?"),
    (
        "grants: { subject_prefix: \"own:\" }",
        "grants: { subject_prefix: ^\"\" }",
        "give login routes a `subject_prefix`",
    ),
    ("cookie: { name: __Host-session }", "cookie: { name: __Host-other }", "nobody would read the session cookie"),
    (
        "delivery: cookie",
        "delivery: cookie\n  refresh: { idle_timeout: ^15m }",
        "lets a refresh token end with its access token",
    ),
    ("delivery: cookie", "delivery: cookie\n  refresh: { reuse_grace: ^0s }", "is too short"),
    (
        "delivery: cookie",
        "delivery: cookie\n  refresh: { delivery: ^body }",
        "`session.refresh.delivery` cannot be `body`",
    ),
    (
        "delivery: cookie",
        "delivery: cookie\n  refresh: { cookie: { name: ^__Host-session } }",
        "`__Host-session` is the cookie of access tokens",
    ),
];

/// Applies a slip: the changed text, and the line and column of the marked place.
fn slip(from: &str, to: &str) -> (String, Option<(usize, usize)>) {
    assert!(GOOD.contains(from), "{from:?} is not in the good file");
    let text = GOOD.replacen(from, to, 1);
    let Some(mark) = text.find('^') else { return (text, None) };
    let before = &text[..mark];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let place = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
    (text.replacen('^', "", 1), Some(place))
}

#[test]
fn the_good_file_is_good() {
    let folder = folder();
    let loaded = read(GOOD, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.issuers[0].subject_prefix, "acc:");
    assert_eq!(config.routes[1].name, "shop.example.com,*.example.org/files/{id}/{*rest}");
    assert_eq!(config.routes[1].max_body, Some(100_000_000));
    let headers = &config.routes[2].identity.headers;
    assert_eq!(headers[0], (http::HeaderName::from_static("x-auth-request-user"), "preferred_username".to_owned()));
    assert_eq!(headers.len(), 5, "the preset's four, one of them replaced, and one more");
    assert_eq!(config.routes[1].identity.headers.len(), 4);
    assert_eq!(config.session.unwrap().reissue_every, Some(100));
    assert_eq!(config.shutdown.drain_timeout, std::time::Duration::from_secs(90));
}

#[test]
fn each_slip_is_reported_alone_and_in_its_place() {
    let folder = folder();
    let mut wrong = Vec::new();
    for (from, to, wanted) in SLIPS {
        let (text, place) = slip(from, to);
        let Err(problems) = read(&text, folder.path()) else {
            wrong.push(format!("{to:?} was accepted"));
            continue;
        };
        let shown = problems.to_string();
        let found = problems.iter().next().unwrap();
        // A quoted value begins at its quote.
        let quoted = place.is_some() && to[..to.find('^').unwrap()].ends_with(['"', '\'']);
        let found = (found.line, found.column + usize::from(quoted));
        let said = shown.contains(wanted) && problems.len() == 1 && !shown.contains("hunter2");
        if !said || place.is_some_and(|place| place != found) {
            wrong.push(format!("{to:?} should say {wanted:?} alone, at {place:?}, and says\n{shown}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let folder = folder();
    for (from, to, wanted) in [
        ("{ file: secrets/ops }", "{ file: ^secrets/open }", "every user of this machine may read this secret"),
        ("match: { path: / }", "^match: { path: /sign-in/x, host: shop.example.com, methods: [GET] }", "never reached"),
    ] {
        let (text, place) = slip(from, to);
        let warnings = read(&text, folder.path()).unwrap_or_else(|problems| panic!("{problems}")).warnings;
        assert_eq!(warnings.len(), 1, "{to:?}");
        let warning = &warnings[0];
        assert_eq!(warning.severity, Severity::Warning);
        assert!(warning.message.contains(wanted), "{warning}");
        assert_eq!(Some((warning.line, warning.column)), place, "{warning}");
    }
    let renamed = GOOD.replace("__Host-session", "session");
    let warnings = read(&renamed, folder.path()).unwrap().warnings;
    assert!(warnings[0].to_string().contains("write `__Host-session`"), "{}", warnings[0]);
}

#[test]
fn a_control_plane_without_tokens_is_refused_unless_it_is_a_socket() {
    let folder = folder();
    let base = "listeners: [{ address: 127.0.0.1:0 }]\nupstreams: { a: { servers: [http://a] } }\n\
                routes: [{ match: {}, upstream: a, auth: none }]\n";
    for (admin, wanted) in [
        ("admin: {}", "every user and every page in a browser"),
        ("admin: { address: 127.0.0.1:9901 }", "the control plane has no tokens"),
        ("admin: { address: 0.0.0.0:9901 }", "whoever can reach it could use it"),
    ] {
        let problems = read(&format!("{base}{admin}\n"), folder.path()).unwrap_err();
        assert!(problems.len() == 1 && problems.to_string().contains(wanted), "{problems}");
    }
    assert!(read(&format!("{base}admin: {{ address: 'unix:a.sock' }}\n"), folder.path()).is_ok());
    // Without issuers nobody could pass a route that needs a token, and without sessions nobody log in.
    for (from, to, wanted) in [
        (", auth: none", "", "there are no issuers"),
        ("none }", "none, login: true }", "add `session`"),
        ("none }", "{ issuers: [session] } }", "the gateway has no sessions"),
    ] {
        let problems = read(&base.replacen(from, to, 1), folder.path()).unwrap_err();
        assert!(problems.to_string().contains(wanted), "{problems}");
    }
}

#[test]
fn all_problems_of_a_file_are_shown_at_once() {
    let text = "\
listeners:
  - address: localhost:8080
issuers:
  main:
    issuer: https://accounts.example.com/
    audience: [shop]
    algorithms: [RS256, HS256]
    keys: { secret: hunter2 }
    max_lifetime: 3600
upstreams:
  shop: { servers: [http://127.0.0.1:3000/api] }
  shop: { servers: [http://127.0.0.1:3001] }
routes:
  - match: { path: / }
    upstream: ship
    auth: { issuers: [mian] }
";
    let problems = read(text, Path::new(".")).unwrap_err();
    let golden = include_str!("problems.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/tests/problems.txt");
        std::fs::write(path, format!("{problems}\n")).unwrap();
    }
    assert_eq!(format!("{problems}\n"), golden);
    assert_eq!(problems.len(), 9);
}
