-- Acknowledge a batch of handled messages and publish what their handlers sent, with the state they keep: all or nothing.
--
-- A script that fails half way is not rolled back, so everything is checked before the first write.
--
-- KEYS[1]        HASH    the client: owner token, group marks, attempts
-- KEYS[2]        HASH    exact counts, field -> integer
-- KEYS[3]        HASH    the client's own state: version, state (JSON), timers (JSON)
-- KEYS[4]        HASH    what handlers of the client sent early; see early.lua
-- KEYS[5..4+L]   STREAM  the logs that entries are acknowledged in
-- then four keys for each output, as in publish.lua: log, seen, store, index
-- ARGV[1] owner token   ARGV[2] group   ARGV[3] index TTL, seconds
-- ARGV[4] L, logs   ARGV[5] A, acknowledgements   ARGV[6] C, counts
-- ARGV[7] state version expected, or '' when the state is left alone   ARGV[8] the new state, JSON
-- ARGV[9] by how much the version grows (changes of the state in the batch)   ARGV[10] the new timers, JSON, or '' when they are left alone
-- ARGV[11] E, fields of the early sends that are done with   ARGV[12] T, attempts to forget
-- then E x field of KEYS[4], T x field of KEYS[1], A x (index of the log 1..L, entry id), C x (field, increment), and for each output: score, digest, JSON, count field
--
-- Returns {1, state version}, or {0, why, detail} with nothing changed; why is
--   owner (another token), unclaimed (no token: data was lost), type (detail = key), gone (detail = entry id: not pending), state (detail = version found), acl (detail = command that the user may not use).
local token, group, ttl = ARGV[1], ARGV[2], ARGV[3]
local logs, acks, increments = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local expected, state, changes, timers = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local early, tried = tonumber(ARGV[11]), tonumber(ARGV[12])
local outputs = (#KEYS - 4 - logs) / 4
local first_tried = 13 + early
local first_ack = first_tried + tried
local first_count = first_ack + 2 * acks
local first_output = first_count + 2 * increments
local entries = {} -- of each log
for i = 0, acks - 1 do
  local log = KEYS[4 + tonumber(ARGV[first_ack + 2 * i])]
  entries[log] = entries[log] or {}
  table.insert(entries[log], ARGV[first_ack + 2 * i + 1])
end

local function wrong_type(key, want)
  local kind = redis.call('TYPE', key).ok
  return kind ~= 'none' and kind ~= want
end

for i = 1, 4 do
  if wrong_type(KEYS[i], 'hash') then return {0, 'type', KEYS[i]} end
end
local owner = redis.call('HGET', KEYS[1], 'token')
if owner ~= token then return {0, owner and 'owner' or 'unclaimed', ''} end
local version = tonumber(redis.call('HGET', KEYS[3], 'version') or '0')
if expected ~= '' and version ~= tonumber(expected) then return {0, 'state', tostring(version)} end
local topics = {} -- most outputs of a batch go to few topics: each is checked once
for i = 0, outputs - 1 do
  local k = 5 + logs + 4 * i
  if not topics[KEYS[k]] then
    topics[KEYS[k]] = k
    if wrong_type(KEYS[k], 'stream') then return {0, 'type', KEYS[k]} end
    if wrong_type(KEYS[k + 1], 'zset') then return {0, 'type', KEYS[k + 1]} end
    if wrong_type(KEYS[k + 2], 'zset') then return {0, 'type', KEYS[k + 2]} end
  end
end
for log, ids in pairs(entries) do
  local pending = {} -- a batch is mostly just what is pending first: one question for all of it, and one for each other
  for _, first in ipairs(redis.pcall('XPENDING', log, group, '-', '+', #ids)) do pending[first[1]] = true end
  for _, id in ipairs(ids) do
    if not pending[id] then
      local found = redis.pcall('XPENDING', log, group, id, id, 1)
      if found.err or #found == 0 then return {0, 'gone', id} end
    end
  end
end

local function may_not(...)
  return redis.acl_check_cmd and not redis.acl_check_cmd(...)
end

if may_not('XACK', KEYS[5], group, '0-0') then return {0, 'acl', 'XACK'} end
if may_not('HINCRBY', KEYS[2], 'n', 1) then return {0, 'acl', 'HINCRBY'} end
if may_not('HSET', KEYS[3], 'state', '') then return {0, 'acl', 'HSET'} end
if may_not('HDEL', KEYS[1], 'n') then return {0, 'acl', 'HDEL'} end
if outputs > 0 then
  local k = 5 + logs
  if may_not('ZADD', KEYS[k + 1], 'NX', 0, '') then return {0, 'acl', 'ZADD'} end
  if may_not('SET', KEYS[k + 3], '', 'EX', 1) then return {0, 'acl', 'SET'} end
  if may_not('XADD', KEYS[k], '*', 'm', '') then return {0, 'acl', 'XADD'} end
end
for _, k in pairs(topics) do
  if may_not('PUBLISH', KEYS[k + 2], '') then return {0, 'acl', 'PUBLISH'} end
end

for log, ids in pairs(entries) do -- in slices: a call takes some thousand arguments
  for i = 1, #ids, 1000 do redis.call('XACK', log, group, unpack(ids, i, math.min(i + 999, #ids))) end
end
for i = 13, first_tried - 1 do redis.call('HDEL', KEYS[4], ARGV[i]) end
for i = first_tried, first_ack - 1 do redis.call('HDEL', KEYS[1], ARGV[i]) end
local counts = {}
for i = 0, increments - 1 do
  local field = ARGV[first_count + 2 * i]
  counts[field] = (counts[field] or 0) + tonumber(ARGV[first_count + 2 * i + 1])
end
for i = 0, outputs - 1 do
  local k, a = 5 + logs + 4 * i, first_output + 4 * i
  local score, digest, json, field = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  if redis.call('ZADD', KEYS[k + 1], 'NX', score, digest) == 1 then
    redis.call('SET', KEYS[k + 3], json, 'EX', ttl)
    redis.call('ZADD', KEYS[k + 2], score, json)
    redis.call('XADD', KEYS[k], '*', 'm', json)
    redis.call('PUBLISH', KEYS[k + 2], json)
    counts[field] = (counts[field] or 0) + 1
  end
end
for field, n in pairs(counts) do redis.call('HINCRBY', KEYS[2], field, n) end
if expected ~= '' then
  version = version + tonumber(changes)
  redis.call('HSET', KEYS[3], 'version', version, 'state', state)
end
if timers ~= '' then redis.call('HSET', KEYS[3], 'timers', timers) end
return {1, version}
