-- Publish copies of messages, each to one topic: all of them or none, and each at most once however often it is tried.
--
-- KEYS[1]      HASH    exact counts, field -> integer
-- KEYS[2+4i]   STREAM  log of the copy's topic, in arrival order (field m = JSON)
-- KEYS[3+4i]   ZSET    digests of what is in the log, score = timestamp ms
-- KEYS[4+4i]   ZSET    the documented store, score = timestamp ms, member = JSON; also the Pub/Sub channel
-- KEYS[5+4i]   STRING  the documented index by id, JSON with a TTL
-- then, for copies that were confirmed once and are stored again, a key for each:
--              HASH    'floor:<log>' -> the score below which digests were cut; what is older is left out
-- ARGV[1]      TTL of the index, seconds
-- ARGV[2+4i]   score, digest, JSON, count field of the copy
--
-- Returns {1, copies stored} (fewer than given: the others were stored before), or, with nothing stored, {0, 'type', key}
-- or {0, 'acl', command} (the user may not).
local function wrong_type(key, want)
  local kind = redis.call('TYPE', key).ok
  return kind ~= 'none' and kind ~= want
end

local copies = (#ARGV - 1) / 4
local again = #KEYS > 1 + 4 * copies
local function forgotten(i, score)
  local floor = again and redis.call('HGET', KEYS[2 + 4 * copies + i], 'floor:' .. KEYS[2 + 4 * i])
  return floor and tonumber(score) < tonumber(floor)
end

if wrong_type(KEYS[1], 'hash') then return {0, 'type', KEYS[1]} end
for i = 0, copies - 1 do
  if wrong_type(KEYS[2 + 4 * i], 'stream') then return {0, 'type', KEYS[2 + 4 * i]} end
  if wrong_type(KEYS[3 + 4 * i], 'zset') then return {0, 'type', KEYS[3 + 4 * i]} end
  if wrong_type(KEYS[4 + 4 * i], 'zset') then return {0, 'type', KEYS[4 + 4 * i]} end
end

local function may_not(...)
  return redis.acl_check_cmd and not redis.acl_check_cmd(...)
end

if may_not('ZADD', KEYS[3], 'NX', 0, '') then return {0, 'acl', 'ZADD'} end
if may_not('SET', KEYS[5], '', 'EX', 1) then return {0, 'acl', 'SET'} end
if may_not('XADD', KEYS[2], '*', 'm', '') then return {0, 'acl', 'XADD'} end
if may_not('HINCRBY', KEYS[1], 'n', 1) then return {0, 'acl', 'HINCRBY'} end
for i = 0, copies - 1 do
  if may_not('PUBLISH', KEYS[4 + 4 * i], '') then return {0, 'acl', 'PUBLISH'} end
end

local stored, counts = 0, {}
for i = 0, copies - 1 do
  local k, a = 4 * i, 4 * i
  local score, digest, json, field = ARGV[2 + a], ARGV[3 + a], ARGV[4 + a], ARGV[5 + a]
  if not forgotten(i, score) and redis.call('ZADD', KEYS[3 + k], 'NX', score, digest) == 1 then
    redis.call('SET', KEYS[5 + k], json, 'EX', ARGV[1])
    redis.call('ZADD', KEYS[4 + k], score, json)
    redis.call('XADD', KEYS[2 + k], '*', 'm', json)
    redis.call('PUBLISH', KEYS[4 + k], json)
    counts[field] = (counts[field] or 0) + 1
    stored = stored + 1
  end
end
for field, n in pairs(counts) do redis.call('HINCRBY', KEYS[1], field, n) end
return {1, stored}
