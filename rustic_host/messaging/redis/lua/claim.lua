-- Become the owner of a client, or show that one still is.
--
-- KEYS[1]  HASH  the client: token, connection (Redis client id of the owner's reader)
-- ARGV[1]  token   ARGV[2]  connection id
-- ARGV[3]  'take' (whoever owns it now) or 'keep' (only if nobody took it from us)
-- ARGV[4]  for 'keep', the token we took it from: a server that lost its last writes may show it again
--
-- Returns {1, connection id of the former reader or '', token of the former owner or ''}, or {0, 'owner'}.
local owner = redis.call('HGET', KEYS[1], 'token') or ''
if ARGV[3] == 'keep' and owner ~= '' and owner ~= ARGV[1] and owner ~= ARGV[4] then return {0, 'owner'} end
local former = redis.call('HGET', KEYS[1], 'connection') or ''
redis.call('HDEL', KEYS[1], 'connection') -- a server without memory refuses only what a script writes first
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'connection', ARGV[2])
return {1, former, owner}
