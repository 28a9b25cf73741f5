-- Have a client go on reading its logs from other positions. Its groups are made anew, so nothing stays pending: what
-- lies behind the new position is read (again), what lies before it is left. The owner's token is taken away, so that
-- a process that has something in hand begins anew and commits none of it.
--
-- KEYS[1]   HASH    the client: token, group marks ('group:<log>' -> Unix ms), attempts
-- KEYS[2]   HASH    what its handlers sent early, by '<topic>|<entry>|...'
-- KEYS[3+]  STREAM  the logs
-- ARGV[1]   group
-- then for each log: its topic, the position ('0', '$' or an entry id), how many entries were ever added up to there ('' when not known)
--
-- Returns {1, and for each log how many entries were pending up to the position}, or {0, 'type', key}, {0, 'acl', command}
-- with nothing written.
local group = ARGV[1]
for i = 1, #KEYS do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'none' and found ~= (i < 3 and 'hash' or 'stream') then return {0, 'type', KEYS[i]} end
end

local function may_not(...)
  return redis.acl_check_cmd and not redis.acl_check_cmd(...)
end

if may_not('XGROUP', 'DESTROY', KEYS[3], group) then return {0, 'acl', 'XGROUP DESTROY'} end
if may_not('XGROUP', 'CREATE', KEYS[3], group, '$', 'MKSTREAM') then return {0, 'acl', 'XGROUP CREATE'} end
if may_not('HSET', KEYS[1], 'n', '1') then return {0, 'acl', 'HSET'} end
if may_not('HDEL', KEYS[1], 'n') then return {0, 'acl', 'HDEL'} end
if may_not('HKEYS', KEYS[2]) then return {0, 'acl', 'HKEYS'} end

local function forget(key, fields, prefix, form) -- what is left of the field has a form: other topics may begin like this one
  for _, field in ipairs(fields) do
    local mine = string.sub(field, 1, #prefix) == prefix and string.find(string.sub(field, #prefix + 1), form)
    if mine then redis.call('HDEL', key, field) end
  end
end

-- Asked for once: a server whose slot moves away refuses, in the middle of a script, a key that the script has emptied.
local kept, early = redis.call('HKEYS', KEYS[1]), redis.call('HKEYS', KEYS[2])
local now = redis.pcall('TIME') -- who may not ask has a group of unknown age
local made = now.err and '1' or string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
local answer = {1}
for i = 3, #KEYS do
  local topic, position, read = ARGV[3 * i - 7], ARGV[3 * i - 6], ARGV[3 * i - 5]
  local left = redis.pcall('XPENDING', KEYS[i], group, '-', position == '$' and '+' or position, 1000000)
  answer[#answer + 1] = left.err and 0 or #left
  redis.pcall('XGROUP', 'DESTROY', KEYS[i], group)
  if read == '' then
    redis.call('XGROUP', 'CREATE', KEYS[i], group, position, 'MKSTREAM')
  else
    redis.call('XGROUP', 'CREATE', KEYS[i], group, position, 'MKSTREAM', 'ENTRIESREAD', read)
  end
  redis.call('HSET', KEYS[1], 'group:' .. KEYS[i], made)
  forget(KEYS[1], kept, 'try:' .. topic .. ':', '^%d+-%d+$')
  forget(KEYS[2], early, topic .. '|', '^%d+-%d+|[^|]*|[^|]*$')
end
redis.call('HDEL', KEYS[1], 'token')
return answer
