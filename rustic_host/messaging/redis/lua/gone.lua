-- Forget what clients read that are gone, unless they have come back since that was seen.
--
-- KEYS[1]  HASH  who reads what: client -> JSON
-- ARGV     pairs: client, what was seen of it
--
-- Returns how many were forgotten.
local forgotten = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    forgotten = forgotten + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return forgotten
