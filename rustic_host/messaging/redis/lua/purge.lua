-- Throw dead letters away: from the store, from the digests (both say how many there are) and from the index.
--
-- KEYS[1]   ZSET    the dead letters: store
-- KEYS[2]   ZSET    their digests
-- KEYS[3+]  STRING  index of each letter
-- ARGV      for each letter its JSON, its digest
--
-- Returns {1}, or {0, 'type', key} with nothing done.
for i = 1, 2 do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'none' and found ~= 'zset' then return {0, 'type', KEYS[i]} end
end
local letters, digests = {}, {}
for i = 1, #ARGV, 2 do
  letters[#letters + 1], digests[#digests + 1] = ARGV[i], ARGV[i + 1]
end
redis.call('ZREM', KEYS[1], unpack(letters)) -- at once: a server whose slot moves away refuses what is emptied already
redis.call('ZREM', KEYS[2], unpack(digests))
for i = 3, #KEYS do redis.call('DEL', KEYS[i]) end
return {1}
