-- A migration is done: write the new version, unless another host has gone further meanwhile.
--
-- KEYS[1]  STRING  version of the layout
-- ARGV[1]  version before   ARGV[2]  version now
--
-- Returns the version that is stored.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end
return redis.call('GET', KEYS[1])
