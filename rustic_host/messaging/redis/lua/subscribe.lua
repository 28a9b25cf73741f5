-- Make sure that a client has its group in every log it reads. The mark in the client's hash tells a new client (the
-- group is made at its start) from one whose group was destroyed (refused: a guess would lose or double messages).
--
-- KEYS[1]   HASH    the client: mark 'group:<log>' -> when the group was made, Unix ms
-- KEYS[2]   HASH    who reads what: client -> JSON
-- KEYS[3+]  STREAM  the logs
-- ARGV[1]   token   ARGV[2]  group   ARGV[3]  where a new group starts: '0' (earliest) or '$' (what comes from now on)
-- ARGV[4]   what the client reads from now on, as JSON; '' for nothing
--
-- Returns {1, groups made}, or {0, 'owner'}, {0, 'unclaimed'} (data was lost), {0, 'lost', log}, {0, 'type', key};
-- nothing is written when refused.
--
-- Redis 7 does not know after a restart how far a group has read, and answers nil for its lag ever after; it is told here,
-- unless more is unread than can be counted in a few milliseconds.
local COUNTABLE, PAGE = 10000, 500
local token, group, start = ARGV[1], ARGV[2], ARGV[3]
local owner = redis.call('HGET', KEYS[1], 'token')
if owner ~= token then return {0, owner and 'owner' or 'unclaimed'} end

local function fields_of(reply)
  local fields = {}
  for i = 1, #reply, 2 do fields[reply[i]] = reply[i + 1] end
  return fields
end

local function unread_after(log, id)
  local found = 0
  while found < COUNTABLE do
    local page = redis.call('XRANGE', log, '(' .. id, '+', 'COUNT', PAGE)
    found = found + #page
    if #page < PAGE then return found end
    id = page[#page][1]
  end
end

local kept = redis.call('TYPE', KEYS[2]).ok
if kept ~= 'none' and kept ~= 'hash' then return {0, 'type', KEYS[2]} end
local missing, unknown = {}, {}
for i = 3, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= 'stream' then return {0, 'type', KEYS[i]} end
  local found = false
  if kind == 'stream' then
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[i])) do
      if info[2] == group then
        found = true
        if not fields_of(info)['lag'] then unknown[#unknown + 1] = {KEYS[i], fields_of(info)['last-delivered-id']} end
      end
    end
  end
  if not found then
    if redis.call('HEXISTS', KEYS[1], 'group:' .. KEYS[i]) == 1 then return {0, 'lost', KEYS[i]} end
    missing[#missing + 1] = KEYS[i]
  end
end
-- A server without memory refuses only what a script writes first. One whose slot moves away refuses a key that the
-- script has emptied, in its middle: so the last reader's field is not taken out before it is set.
redis.call('HDEL', KEYS[2], ARGV[4] == '' and group or '')
local now = redis.pcall('TIME') -- who may not ask has a group of unknown age
local made = now.err and '1' or string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
for _, log in ipairs(missing) do
  redis.call('XGROUP', 'CREATE', log, group, start, 'MKSTREAM')
  redis.call('HSET', KEYS[1], 'group:' .. log, made)
end
for _, place in ipairs(unknown) do
  local log, last = place[1], place[2]
  local unread = unread_after(log, last)
  if unread then
    local read = fields_of(redis.call('XINFO', 'STREAM', log))['entries-added'] - unread
    redis.call('XGROUP', 'SETID', log, group, last, 'ENTRIESREAD', read)
  end
end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], group, ARGV[4]) end
return {1, #missing}
