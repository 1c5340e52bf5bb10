//! What must be one step: scripts, which Redis runs with nothing in between.
//!
//! A script is sent by its hash, and as text where the server does not know it: one that was restarted, or
//! took the place of another, has forgotten all of them.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use redis::Cmd;

/// A script and the hash it is asked for by.
#[derive(Debug)]
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        // Redis names scripts by SHA-1: a name, and nothing that has to withstand anybody.
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let hash = hash.as_ref().iter().fold(String::with_capacity(40), |mut hash, byte| {
            let _ = write!(hash, "{byte:02x}");
            hash
        });
        Self { text, hash }
    }

    /// The command that runs it, by its hash or as text.
    pub(super) fn command<'k>(
        &self,
        by_hash: bool,
        keys: impl ExactSizeIterator<Item = &'k str>,
        arguments: &[Argument<'_>],
    ) -> Cmd {
        let mut command = if by_hash { redis::cmd("EVALSHA") } else { redis::cmd("EVAL") };
        command.arg(if by_hash { self.hash.as_str() } else { self.text }).arg(keys.len());
        for key in keys {
            command.arg(key);
        }
        for argument in arguments {
            match argument {
                Argument::Bytes(bytes) => command.arg(*bytes),
                Argument::Text(text) => command.arg(text.as_str()),
                Argument::Number(number) => command.arg(*number),
            };
        }
        command
    }
}

/// What a script is given.
pub(super) enum Argument<'a> {
    Bytes(&'a [u8]),
    Text(String),
    Number(i64),
}

/// All scripts.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) head: Script,
    pub(super) publish: Script,
    pub(super) exchange: Script,
    pub(super) tail: Script,
    pub(super) forget: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            head: Script::new(HEAD),
            publish: Script::new(PUBLISH),
            exchange: Script::new(EXCHANGE),
            tail: Script::new(TAIL),
            forget: Script::new(FORGET),
        }
    }
}

/// Keys: epoch, log. Arguments: the epoch that begins where there is none.
/// Returns epoch, last position, seconds, microseconds.
const HEAD: &str = r"
local now = redis.call('TIME')
redis.call('SET', KEYS[1], ARGV[1], 'NX')
local last = '0-0'
if redis.call('EXISTS', KEYS[2]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #info, 2 do if info[i] == 'last-generated-id' then last = info[i + 1] end end
end
return {redis.call('GET', KEYS[1]), last, now[1], now[2]}
";

/// Keys: epoch, log, buckets, documents, ends of documents, nodes, and the buckets that records go to.
/// Arguments: epoch, bound of the log, and of each message its letter and what belongs to it.
/// Returns the last position.
///
/// Revisions are compared as text of 20 digits: numbers are not exact here beyond 53 bits.
const PUBLISH: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('EPOCH it is another one') end
local last, at, dated = nil, 3, {}
while at <= #ARGV do
  local kind, sealed, taken = ARGV[at], ARGV[at + 1], true
  at = at + 2
  if kind == 'r' then
    local place, field, bucket, expires = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    at = at + 4
    redis.call('HSET', KEYS[place], field, sealed)
    if not dated[place] then
      dated[place] = true
      redis.call('ZADD', KEYS[3], bucket, bucket)
      if expires ~= '0' then redis.call('EXPIREAT', KEYS[place], expires) end
    end
  elseif kind == 'd' then
    local field, revision, ends = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    at = at + 3
    local kept = redis.call('HGET', KEYS[4], field)
    taken = not kept or string.sub(kept, 1, 20) < revision
    if taken then
      redis.call('HSET', KEYS[4], field, revision .. sealed)
      if ends == '' then redis.call('ZREM', KEYS[5], field) else redis.call('ZADD', KEYS[5], ends, field) end
    end
  elseif kind == 'n' then
    redis.call('HSET', KEYS[6], ARGV[at], sealed)
    at = at + 1
  end
  if taken then last = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'm', sealed) end
end
if last then return last end
if redis.call('EXISTS', KEYS[2]) == 0 then return '0-0' end
local info = redis.call('XINFO', 'STREAM', KEYS[2])
for i = 1, #info, 2 do if info[i] == 'last-generated-id' then last = info[i + 1] end end
return last
";

/// Keys: epoch, log, documents, ends of documents. Arguments: epoch, bound of the log, field, the revision
/// that is expected, the new one, end, sealed.
/// Returns 1 and the position; or 0 and what is there, if anything.
const EXCHANGE: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('EPOCH it is another one') end
local kept = redis.call('HGET', KEYS[3], ARGV[3])
local revision = kept and string.sub(kept, 1, 20) or '00000000000000000000'
if revision ~= ARGV[4] or revision >= ARGV[5] then
  if kept then return {0, string.sub(kept, 21)} end
  return {0}
end
redis.call('HSET', KEYS[3], ARGV[3], ARGV[5] .. ARGV[7])
if ARGV[6] == '' then redis.call('ZREM', KEYS[4], ARGV[3]) else redis.call('ZADD', KEYS[4], ARGV[6], ARGV[3]) end
return {1, redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'm', ARGV[7])}
";

/// Keys: epoch, log. Arguments: epoch, the position after which entries are wanted, how many, bound of the log.
/// Returns entries, having made sure that none is missing before the first of them.
///
/// A log is only cut at its front. So nothing after an entry is missing while that entry is there; when it is
/// not, it was cut off, or this is not the log that had it.
const TAIL: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('EPOCH it is another one') end
local after, count = ARGV[2], tonumber(ARGV[3])
if redis.call('EXISTS', KEYS[2]) == 0 then
  if after == '0-0' then return {} end
  return redis.error_reply('EPOCH it is another one')
end
local found = redis.call('XRANGE', KEYS[2], after, '+', 'COUNT', count + 1)
if found[1] and found[1][1] == after then
  table.remove(found, 1)
  return found
end
if #found > count then found[#found] = nil end
local info, raw = {}, redis.call('XINFO', 'STREAM', KEYS[2])
for i = 1, #raw, 2 do info[raw[i]] = raw[i + 1] end
local last = info['last-generated-id']
if last == after then return {} end
if after == '0-0' then
  local added = info['entries-added']
  if (added and added > info['length']) or (not added and info['length'] >= tonumber(ARGV[4])) then
    return redis.error_reply('TRIMMED it was cut')
  end
  return found
end
local function before(a, b)
  local am, an = string.match(a, '(%d+)-(%d+)')
  local bm, bn = string.match(b, '(%d+)-(%d+)')
  am, an, bm, bn = tonumber(am), tonumber(an), tonumber(bm), tonumber(bn)
  return am < bm or (am == bm and an < bn)
end
if before(last, after) then return redis.error_reply('EPOCH it is another one') end
local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
if not first or before(after, first[1]) then return redis.error_reply('TRIMMED it was cut') end
return redis.error_reply('EPOCH it is another one')
";

/// Keys: epoch, buckets, documents, ends of documents, and the buckets to drop. Arguments: epoch, the time
/// before which a document must have ended, how many documents, and the buckets to drop.
/// Returns how many documents were dropped.
const FORGET: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('EPOCH it is another one') end
for i = 5, #KEYS do
  redis.call('UNLINK', KEYS[i])
  redis.call('ZREM', KEYS[2], ARGV[i - 1])
end
local ended = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])
for _, field in ipairs(ended) do
  redis.call('HDEL', KEYS[3], field)
  redis.call('ZREM', KEYS[4], field)
end
return #ended
";
