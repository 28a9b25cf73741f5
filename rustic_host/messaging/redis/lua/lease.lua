-- Lease one of 4,096 slots (machine id and sequence block) for making ids; the longest unused one first.
--
-- KEYS[1]  ZSET  slot -> server time in ms until which it is taken
-- ARGV[1]  number of slots   ARGV[2]  lease time in ms
--
-- Returns {slot, server time in ms before which nobody may have used it, server time until which it is leased}, or
-- {-1, 0, 0} when all are taken.
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local slot, floor = nil, 0
local used = redis.call('ZCARD', KEYS[1])
if used < tonumber(ARGV[1]) then
  -- Slots are numbered as they are first leased; after a loss of data those that live on were renewed out of turn.
  repeat
    slot = tostring(used % tonumber(ARGV[1]))
    used = used + 1
  until not redis.call('ZSCORE', KEYS[1], slot)
else
  local free = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms, 'WITHSCORES', 'LIMIT', 0, 1)
  if #free == 0 then return {-1, 0, 0} end
  slot, floor = free[1], tonumber(free[2])
end
local until_ms = now_ms + tonumber(ARGV[2])
-- A write that needs no memory comes first: then a server that has none left lets the others through (A8).
redis.call('ZREM', KEYS[1], '')
redis.call('ZADD', KEYS[1], until_ms, slot)
return {tonumber(slot), floor, until_ms}
