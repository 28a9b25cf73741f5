-- Forget what clients read that are gone, unless they have come back since that was seen.
--
-- KEYS[1]  HASH  who reads what: client -> JSON
-- ARGV     pairs: client, what was seen of it; at least one
--
-- Returns how many were forgotten.
local clients = {}
for i = 1, #ARGV, 2 do clients[#clients + 1] = ARGV[i] end
local gone = {}
for i, now in ipairs(redis.call('HMGET', KEYS[1], unpack(clients))) do
  if now == ARGV[2 * i] then gone[#gone + 1] = clients[i] end
end
if #gone == 0 then return 0 end
return redis.call('HDEL', KEYS[1], unpack(gone)) -- at once: a server whose slot moves away refuses what is emptied already
