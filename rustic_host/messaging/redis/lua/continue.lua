-- Make a client's group in a log that it has never read, behind what another has handled for it.
--
-- KEYS[1]  HASH    the client: owner token, mark 'group:<log>' for each group that was made
-- KEYS[2]  STREAM  the log
-- ARGV[1]  token   ARGV[2]  group   ARGV[3]  consumer   ARGV[4]  id of the entry that the group starts behind
-- ARGV[5]  how many entries behind that are read here, the rest of them staying pending: those between are handled too
-- ARGV[6+] ids of these
--
-- Returns {1}, or, with nothing written, {0, 'there'} (the client has, or had, a group), {0, 'owner'} (another token),
-- {0, 'type', key}, {0, 'acl', command}.
local token, group, consumer, read = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return {0, 'owner'} end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return {0, 'type', KEYS[2]} end
if redis.call('HGET', KEYS[1], 'token') ~= token then return {0, 'owner'} end
if redis.call('HEXISTS', KEYS[1], 'group:' .. KEYS[2]) == 1 then return {0, 'there'} end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
  if info[2] == group then return {0, 'there'} end
end

local function may_not(...)
  return redis.acl_check_cmd and not redis.acl_check_cmd(...)
end

if may_not('XGROUP', 'CREATE', KEYS[2], group, '0') then return {0, 'acl', 'XGROUP CREATE'} end
if may_not('XREADGROUP', 'GROUP', group, consumer, 'STREAMS', KEYS[2], '>') then return {0, 'acl', 'XREADGROUP'} end
if may_not('XACK', KEYS[2], group, '0-0') then return {0, 'acl', 'XACK'} end
if may_not('HSET', KEYS[1], 'n', '1') then return {0, 'acl', 'HSET'} end

redis.call('HSET', KEYS[1], 'group:' .. KEYS[2], '1')
redis.call('XGROUP', 'CREATE', KEYS[2], group, ARGV[4])
if read > 0 then redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', read, 'STREAMS', KEYS[2], '>') end
for i = 6, #ARGV do redis.call('XACK', KEYS[2], group, ARGV[i]) end
return {1}
