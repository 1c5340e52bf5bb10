// A client whose tokens are worth nothing to whoever steals them (DPoP, RFC 9449). Node 18 or later, no packages.
//
//   node client.mjs jkt                      the thumbprint of its key (made in key.json when there is none):
//                                            what the issuer puts into the token as cnf.jkt
//   TOKEN=… node client.mjs GET https://…    one request with that token, and a proof for it alone
import { createHash, createPrivateKey, generateKeyPairSync, randomUUID, sign } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';

const base64url = (bytes) => Buffer.from(bytes).toString('base64url');
const sha256 = (text) => createHash('sha256').update(text).digest('base64url');

if (!existsSync('key.json')) {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  writeFileSync('key.json', JSON.stringify(privateKey.export({ format: 'jwk' })), { mode: 0o600 });
}
const jwk = JSON.parse(readFileSync('key.json', 'utf8'));
const publicJwk = { crv: jwk.crv, kty: jwk.kty, x: jwk.x, y: jwk.y }; // in this order: RFC 7638
const key = createPrivateKey({ key: jwk, format: 'jwk' });

function proof(method, url, token) {
  const header = { typ: 'dpop+jwt', alg: 'ES256', jwk: publicJwk };
  const claims = {
    jti: randomUUID(), htm: method, htu: url.split(/[?#]/)[0], iat: Math.floor(Date.now() / 1000), ath: sha256(token),
  };
  const input = [header, claims].map((part) => base64url(JSON.stringify(part))).join('.');
  return `${input}.${base64url(sign('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' }))}`;
}

const [method, url] = process.argv.slice(2);
if (method === 'jkt') {
  console.log(sha256(JSON.stringify(publicJwk)));
} else {
  const token = process.env.TOKEN;
  const headers = { Authorization: `DPoP ${token}`, DPoP: proof(method, url, token) };
  const response = await fetch(url, { method, headers });
  console.log(response.status, await response.text());
}
