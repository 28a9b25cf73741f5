-- Members of a topic's store from a time on, when it is certain that no older one has a greater id.
--
-- KEYS[1]  HASH  exact counts, field -> integer
-- KEYS[2]  ZSET  digests of what is in the log
-- KEYS[3]  ZSET  the documented store, score = timestamp ms, member = JSON
-- ARGV[1]  the time, a score   ARGV[2]  how many members at most; -1 for all
-- ARGV[3..] count fields of messages that may be older than their ids say: there must have been none
--
-- Returns {1, members by score}, or {0}: only the whole store says it. Writes nothing.
for i = 3, #ARGV do
  if redis.call('HGET', KEYS[1], ARGV[i]) then return {0} end
end
if redis.call('ZCARD', KEYS[3]) > redis.call('ZCARD', KEYS[2]) then return {0} end -- others stored what we have not looked at
return {1, redis.call('ZRANGEBYSCORE', KEYS[3], ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])}
