-- Store that another attempt to handle an entry begins, so that one that ends its process is counted.
--
-- KEYS[1]  HASH  the client: token, attempts
-- ARGV[1]  token   ARGV[2]  field 'try:<topic>:<entry id>'   ARGV[3]  number of the attempt
--
-- Returns {1}, or {0, 'owner'}, {0, 'unclaimed'} (data was lost) with nothing written.
local owner = redis.call('HGET', KEYS[1], 'token')
if owner ~= ARGV[1] then return {0, owner and 'owner' or 'unclaimed'} end
redis.call('HDEL', KEYS[1], ARGV[2]) -- a server without memory refuses only what a script writes first
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return {1}
