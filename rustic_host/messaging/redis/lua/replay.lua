-- Deliver the message of a dead letter once more and take the letter out of the queue: both, or neither.
--
-- The message goes into the log alone. Store, index and channel have it since it was published; those who read them, or
-- hear the channel, are not to get it again.
--
-- KEYS[1]  ZSET    the dead letters: store
-- KEYS[2]  ZSET    their digests
-- KEYS[3]  STRING  index of the letter
-- KEYS[4]  STREAM  log of the message's topic
-- KEYS[5]  HASH    exact counts
-- ARGV[1] the letter's JSON   ARGV[2] its digest   ARGV[3] group that is to handle the message
-- ARGV[4] the message's JSON, marked for that group   ARGV[5] count field of its topic
-- ARGV[6] Pub/Sub channel that tells readers without a group
--
-- Returns {1}, or {0, 'gone'} (no such letter any more), {0, 'group'} (nobody of that name reads the topic),
-- {0, 'type', key}, {0, 'acl', command}; nothing is written when refused.
local want = {'zset', 'zset', nil, 'stream', 'hash'}
for i, kind in pairs(want) do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'none' and found ~= kind then return {0, 'type', KEYS[i]} end
end
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return {0, 'gone'} end
if redis.pcall('XPENDING', KEYS[4], ARGV[3]).err then return {0, 'group'} end

local function may_not(...)
  return redis.acl_check_cmd and not redis.acl_check_cmd(...)
end

if may_not('ZREM', KEYS[1], '') then return {0, 'acl', 'ZREM'} end
if may_not('DEL', KEYS[3]) then return {0, 'acl', 'DEL'} end
if may_not('XADD', KEYS[4], '*', 'm', '') then return {0, 'acl', 'XADD'} end
if may_not('HINCRBY', KEYS[5], 'n', 1) then return {0, 'acl', 'HINCRBY'} end

redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[3])
redis.call('XADD', KEYS[4], '*', 'm', ARGV[4])
redis.call('HINCRBY', KEYS[5], ARGV[5], 1)
redis.pcall('PUBLISH', ARGV[6], '')
return {1}
