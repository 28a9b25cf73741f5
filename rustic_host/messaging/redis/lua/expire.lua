-- End the group of a client that has not read for long; it may have come back since that was seen, so look again.
--
-- KEYS[1]  STREAM  the log   KEYS[2]  HASH  the client: marks 'group:<log>' -> when the group was made, Unix ms
-- KEYS[3]  HASH  what it sent early   KEYS[4]  HASH  who reads what, by client
-- ARGV[1]  group   ARGV[2]  how long nobody may have asked for its messages, ms
--
-- Returns 1, or 0 when it was read from lately. One that was never read from is as old as its mark says; where that says
-- nothing (a group that somebody else made, or an older version), its age is counted from now on.
local mark, idle = 'group:' .. KEYS[1], nil
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  for i = 1, #info, 2 do
    if info[i] == 'idle' and (not idle or info[i + 1] < idle) then idle = info[i + 1] end
  end
end
if not idle then
  local now, made = redis.call('TIME'), tonumber(redis.call('HGET', KEYS[2], mark) or '')
  local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
  if not made or made <= 1 then
    redis.call('HSET', KEYS[2], mark, string.format('%.0f', now_ms))
    return 0
  end
  idle = now_ms - made
end
if idle < tonumber(ARGV[2]) then return 0 end
local others = false
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  others = others or string.sub(field, 1, 6) == 'group:' and field ~= mark
end
redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
if others then
  redis.call('HDEL', KEYS[2], mark)
  return 1
end
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('HDEL', KEYS[4], ARGV[1])
return 1
