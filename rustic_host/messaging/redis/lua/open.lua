-- See, before anything is stored, that the user may do what the other scripts do, and which layout a namespace has.
--
-- KEYS[1]  STRING  version of the layout, a number
-- ARGV[1]  the version that a new namespace gets
-- ARGV[2..] names of keys that are asked for and not touched: log, digests, store (and channel) and index of some topic,
--          counts, a client. Declared, one that is forbidden would be refused without its name.
--
-- Returns {1, version}, or {0, 'acl', what the user may not do}; only a new namespace's version is written.
local log, seen, store, index, counts, client = unpack(ARGV, 2)
local needed = {
  {'GET', KEYS[1]}, {'SET', KEYS[1], '1'},
  {'XADD', log, '*', 'm', ''}, {'XREADGROUP', 'GROUP', 'g', 'c', 'COUNT', '1', 'STREAMS', log, '>'},
  {'XACK', log, 'g', '0-0'}, {'XPENDING', log, 'g'}, {'XGROUP', 'CREATE', log, 'g', '0'}, {'XINFO', 'GROUPS', log},
  {'ZADD', seen, '0', ''}, {'ZADD', store, '0', ''}, {'PUBLISH', store, ''}, {'SET', index, '', 'EX', '1'},
  {'TYPE', log}, {'HINCRBY', counts, 'f', '1'}, {'HSET', client, 'f', ''}, {'HGET', client, 'f'}, {'HDEL', client, 'f'},
  {'CLIENT', 'ID'},
}
if redis.acl_check_cmd then -- Redis 7, Valkey
  for _, command in ipairs(needed) do
    if not redis.acl_check_cmd(unpack(command)) then
      local two = command[1] == 'XGROUP' or command[1] == 'XINFO' or command[1] == 'CLIENT'
      local name, on = command[1], command[2] or ''
      if two then name, on = command[1] .. ' ' .. command[2], command[3] or '' end
      if name == 'XREADGROUP' then on = log end
      return {0, 'acl', name .. ' ' .. on}
    end
  end
end
local version = redis.call('GET', KEYS[1])
if not version then
  version = ARGV[1]
  redis.call('SET', KEYS[1], version)
end
return {1, version}
