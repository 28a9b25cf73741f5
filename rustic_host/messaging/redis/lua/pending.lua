-- What the server thinks a client has in hand, and whose client it is.
--
-- KEYS[1]   HASH    the client: token
-- KEYS[2+]  STREAM  its logs
-- ARGV[1]   token   ARGV[2]  group
--
-- Returns {1, entries pending over all logs}, or {0, 'owner'}, {0, 'unclaimed'} (data was lost), {0, 'lost', log}.
local owner = redis.call('HGET', KEYS[1], 'token')
if owner ~= ARGV[1] then return {0, owner and 'owner' or 'unclaimed'} end
local total = 0
for i = 2, #KEYS do
  local summary = redis.pcall('XPENDING', KEYS[i], ARGV[2])
  if summary.err then return {0, 'lost', KEYS[i]} end
  total = total + summary[1]
end
return {1, total}
