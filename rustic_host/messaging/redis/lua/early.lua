-- Keep something for the entry in hand, and publish a message with it, before the entry is committed: once.
--
-- A handler that runs again (after a crash, say) gets back what its first run kept, and nothing is published again. The
-- commit of the entry removes it. All checks come before the first write, as in commit.lua.
--
-- KEYS[1]  HASH    the client: owner token
-- KEYS[2]  HASH    exact counts, field -> integer
-- KEYS[3]  HASH    what handlers of the client sent early, field -> what is kept
-- KEYS[4]  STREAM  the log of the entry in hand
-- then four keys for each copy of the message, as in publish.lua: log, seen, store, index
-- ARGV[1] owner token   ARGV[2] group   ARGV[3] entry id   ARGV[4] index TTL, seconds
-- ARGV[5] field   ARGV[6] what is to be kept
-- then for each copy: score, digest, JSON, count field
--
-- Returns {1, what is kept: ARGV[6], or what was kept before}, or {0, why, detail} with nothing changed; why is
--   owner, unclaimed, type, gone, acl: as in commit.lua.
local token, group, entry, ttl, name = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local copies = (#KEYS - 4) / 4

local function wrong_type(key, want)
  local kind = redis.call('TYPE', key).ok
  return kind ~= 'none' and kind ~= want
end

for i = 1, 3 do
  if wrong_type(KEYS[i], 'hash') then return {0, 'type', KEYS[i]} end
end
local owner = redis.call('HGET', KEYS[1], 'token')
if owner ~= token then return {0, owner and 'owner' or 'unclaimed', ''} end
local pending = redis.pcall('XPENDING', KEYS[4], group, entry, entry, 1)
if pending.err or #pending == 0 then return {0, 'gone', entry} end
local kept = redis.call('HGET', KEYS[3], name)
if kept then return {1, kept} end
for i = 0, copies - 1 do
  local k = 5 + 4 * i
  if wrong_type(KEYS[k], 'stream') then return {0, 'type', KEYS[k]} end
  if wrong_type(KEYS[k + 1], 'zset') then return {0, 'type', KEYS[k + 1]} end
  if wrong_type(KEYS[k + 2], 'zset') then return {0, 'type', KEYS[k + 2]} end
end

local function may_not(...)
  return redis.acl_check_cmd and not redis.acl_check_cmd(...)
end

if may_not('HSET', KEYS[3], name, '') then return {0, 'acl', 'HSET'} end
if may_not('HINCRBY', KEYS[2], 'n', 1) then return {0, 'acl', 'HINCRBY'} end
for i = 0, copies - 1 do
  local k = 5 + 4 * i
  if may_not('ZADD', KEYS[k + 1], 'NX', 0, '') then return {0, 'acl', 'ZADD'} end
  if may_not('SET', KEYS[k + 3], '', 'EX', 1) then return {0, 'acl', 'SET'} end
  if may_not('XADD', KEYS[k], '*', 'm', '') then return {0, 'acl', 'XADD'} end
  if may_not('PUBLISH', KEYS[k + 2], '') then return {0, 'acl', 'PUBLISH'} end
end

redis.call('HSET', KEYS[3], name, ARGV[6])
for i = 0, copies - 1 do
  local k, a = 5 + 4 * i, 7 + 4 * i
  local score, digest, json, count = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  if redis.call('ZADD', KEYS[k + 1], 'NX', score, digest) == 1 then
    redis.call('SET', KEYS[k + 3], json, 'EX', ttl)
    redis.call('ZADD', KEYS[k + 2], score, json)
    redis.call('XADD', KEYS[k], '*', 'm', json)
    redis.call('PUBLISH', KEYS[k + 2], json)
    redis.call('HINCRBY', KEYS[2], count, 1)
  end
end
return {1, ARGV[6]}
