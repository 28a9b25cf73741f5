-- Cut one slice off the old end of a topic: log, store and digests, each by its bound; what unread messages that costs
-- which client is counted in the same step.
--
-- KEYS[1]  STREAM  the log
-- KEYS[2]  ZSET    digests of what is in the log, score = timestamp ms
-- KEYS[3]  ZSET    the documented store, same scores; cut by the same score, or foreign messages could not be counted
-- KEYS[4]  HASH    exact counts, field -> integer
-- KEYS[5]  HASH    'floor:<log>' -> the score below which digests were cut: what is older must not be stored again
-- ARGV[1]  age limit: server time in ms; what is older goes, but from the log only what every group has committed
-- ARGV[2]  entries that a topic may hold, whoever has read them   ARGV[3]  entries of a slice
-- then pairs for each group of the log: its name, the count field of what it lost
--
-- Returns {1, cut from the log, cut from the store, cut from the digests, 1 when there is more to cut, lost by group...}
-- (in the order of the pairs), or {0, 'type', key}, {0, 'groups'} (there is a group that was not given).
local limit, cap, slice = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local log, seen, store = KEYS[1], KEYS[2], KEYS[3]

for i, want in ipairs({'stream', 'zset', 'zset', 'hash', 'hash'}) do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= want then return {0, 'type', KEYS[i]} end
end

-- Digits as text: shorter is less, and of one length the order is that of the text.
local function less(a, b) return #a < #b or (#a == #b and a < b) end
local function before(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  return less(a_ms, b_ms) or (a_ms == b_ms and less(a_seq, b_seq))
end

local fields = {}
for i = 4, #ARGV, 2 do fields[ARGV[i]] = ARGV[i + 1] end
local read, passed, safe, length, groups = {}, {}, limit .. '-0', redis.call('XLEN', log), 0
if redis.call('EXISTS', log) == 1 then
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', log)) do
    local group = {}
    for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
    local name, oldest = group['name'], group['last-delivered-id']
    if not fields[name] then return {0, 'groups'} end
    read[name], passed[name] = oldest, group['entries-read']
    groups = groups + 1
    if group['pending'] > 0 then oldest = redis.call('XPENDING', log, name)[2] end
    if before(oldest, safe) then safe = oldest end
  end
end

local cut, lost, more = 0, {}, 0
if length > 0 then
  -- '~' spares the server the splitting of a node; a short log is cut to the entry.
  if length > slice then
    cut = redis.call('XTRIM', log, 'MINID', '~', safe, 'LIMIT', slice)
    if cut > 0 then more = 1 end
  else
    cut = redis.call('XTRIM', log, 'MINID', '=', safe)
  end
  local over = math.min(length - cut - cap, slice)
  if over > 0 then
    for _, row in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', over)) do
      for name, position in pairs(read) do
        if before(position, row[1]) then lost[name] = (lost[name] or 0) + 1 end
      end
    end
    cut = cut + redis.call('XTRIM', log, 'MAXLEN', '=', length - cut - over)
    if length - cut > cap then more = 1 end
  end
end
for name, n in pairs(lost) do
  redis.call('HINCRBY', KEYS[4], fields[name], n)
  -- Redis 7 and Valkey count what was cut unread as unread for ever: the lag would never come down to 0 again.
  if passed[name] then redis.call('XGROUP', 'SETID', log, name, read[name], 'ENTRIESREAD', passed[name] + n) end
end
if length - cut == 0 and groups == 0 then redis.call('DEL', log) end

local floor, stored = limit, redis.call('ZCARD', store)
local function score_of(key, rank) return redis.call('ZRANGE', key, rank, rank, 'WITHSCORES')[2] end
if stored > cap then
  local score = score_of(store, stored - cap)
  if tonumber(score) > tonumber(floor) then floor = score end
end
for _, key in ipairs({store, seen}) do
  local score = score_of(key, slice)
  if score and score == score_of(key, 0) then score = string.format('%.0f', tonumber(score) + 1) end
  if score and tonumber(score) < tonumber(floor) then floor, more = score, 1 end
end
local from_store = redis.call('ZREMRANGEBYSCORE', store, '-inf', '(' .. floor)
local from_seen = redis.call('ZREMRANGEBYSCORE', seen, '-inf', '(' .. floor)
if from_seen > 0 then
  local known = redis.call('HGET', KEYS[5], 'floor:' .. log)
  if not known or tonumber(known) < tonumber(floor) then redis.call('HSET', KEYS[5], 'floor:' .. log, floor) end
end

local reply = {1, cut, from_store, from_seen, more}
for i = 4, #ARGV, 2 do reply[#reply + 1] = lost[ARGV[i]] or 0 end
return reply
