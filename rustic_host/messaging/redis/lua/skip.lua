-- Give up one entry of a client in its stead: acknowledge it and publish its dead letter.
--
-- An entry that was not read yet is read here, with all before it: those stay pending, and are read again as such.
-- The owner's token is taken away, so that a process that has any of this in hand begins anew and commits none of it.
--
-- KEYS[1]  HASH    the client: token, attempts
-- KEYS[2]  HASH    what its handlers sent early, by '<topic>|<entry>|...'
-- KEYS[3]  HASH    exact counts
-- KEYS[4]  STREAM  the log
-- KEYS[5]  STREAM  log of the dead letters, then as in publish.lua: KEYS[6] seen, KEYS[7] store (ZSETs), KEYS[8] index (STRING)
-- ARGV[1] group   ARGV[2] consumer   ARGV[3] entry id   ARGV[4] topic
-- ARGV[5] how many entries may stand before it unread   ARGV[6] TTL of the index, seconds
-- ARGV[7] the letter's score   ARGV[8] digest   ARGV[9] JSON   ARGV[10] count field of letters
-- ARGV[11] count field of what the client finished so
--
-- Returns {1} (also when it was done before), or, with nothing written, {0, 'gone'} (neither pending nor to be read),
-- {0, 'far'} (too many stand before it), {0, 'group'} (the group is not there), {0, 'type', key},
-- {0, 'acl', command}.
local group, id, topic = ARGV[1], ARGV[3], ARGV[4]
local want = {'hash', 'hash', 'hash', 'stream', 'stream', 'zset', 'zset'}
for i, kind in ipairs(want) do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'none' and found ~= kind then return {0, 'type', KEYS[i]} end
end
if redis.call('ZSCORE', KEYS[6], ARGV[8]) then return {1} end

local pending = redis.pcall('XPENDING', KEYS[4], group, id, id, 1)
if pending.err then return {0, 'group'} end
local unread = 0
if #pending == 0 then
  local last
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[4])) do
    for i = 1, #info, 2 do
      if info[i] == 'last-delivered-id' and info[2] == group then last = info[i + 1] end
    end
  end
  local ahead = redis.call('XRANGE', KEYS[4], '(' .. last, id, 'COUNT', ARGV[5] + 1)
  unread = #ahead
  if unread > tonumber(ARGV[5]) then return {0, 'far'} end
  if unread == 0 or ahead[unread][1] ~= id then return {0, 'gone'} end
end

local function may_not(...)
  return redis.acl_check_cmd and not redis.acl_check_cmd(...)
end

if may_not('XREADGROUP', 'GROUP', group, ARGV[2], 'STREAMS', KEYS[4], '>') then return {0, 'acl', 'XREADGROUP'} end
if may_not('XACK', KEYS[4], group, id) then return {0, 'acl', 'XACK'} end
if may_not('ZADD', KEYS[6], 0, '') then return {0, 'acl', 'ZADD'} end
if may_not('SET', KEYS[8], '', 'EX', 1) then return {0, 'acl', 'SET'} end
if may_not('XADD', KEYS[5], '*', 'm', '') then return {0, 'acl', 'XADD'} end
if may_not('PUBLISH', KEYS[7], '') then return {0, 'acl', 'PUBLISH'} end
if may_not('HINCRBY', KEYS[3], 'n', 1) then return {0, 'acl', 'HINCRBY'} end
if may_not('HDEL', KEYS[1], 'n') then return {0, 'acl', 'HDEL'} end
if may_not('HKEYS', KEYS[2]) then return {0, 'acl', 'HKEYS'} end

if unread > 0 then redis.call('XREADGROUP', 'GROUP', group, ARGV[2], 'COUNT', unread, 'STREAMS', KEYS[4], '>') end
redis.call('XACK', KEYS[4], group, id)
redis.call('ZADD', KEYS[6], ARGV[7], ARGV[8])
redis.call('SET', KEYS[8], ARGV[9], 'EX', ARGV[6])
redis.call('ZADD', KEYS[7], ARGV[7], ARGV[9])
redis.call('XADD', KEYS[5], '*', 'm', ARGV[9])
redis.call('PUBLISH', KEYS[7], ARGV[9])
redis.call('HINCRBY', KEYS[3], ARGV[10], 1)
redis.call('HINCRBY', KEYS[3], ARGV[11], 1)
redis.call('HDEL', KEYS[1], 'token', 'try:' .. topic .. ':' .. id)
local early = topic .. '|' .. id .. '|'
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  if string.sub(field, 1, #early) == early then redis.call('HDEL', KEYS[2], field) end
end
return {1}
