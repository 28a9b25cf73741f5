-- End the group of a client that has not read for long; it may have come back since that was seen, so look again.
--
-- KEYS[1]  STREAM  the log   KEYS[2]  HASH  the client: marks 'group:<log>'
-- KEYS[3]  HASH  what it sent early   KEYS[4]  HASH  who reads what, by client
-- ARGV[1]  group   ARGV[2]  how long nobody may have asked for its messages, ms
--
-- Returns 1, or 0 when it was read from lately, or never: its age is not known then.
local idle
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  for i = 1, #info, 2 do
    if info[i] == 'idle' and (not idle or info[i + 1] < idle) then idle = info[i + 1] end
  end
end
if not idle or idle < tonumber(ARGV[2]) then return 0 end
local mark, others = 'group:' .. KEYS[1], false
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
